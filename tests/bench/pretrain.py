"""What masked pretraining on one's own photographs is worth, in equal minutes: with it and without.

BENCH_SOURCE names a folder of real pairs with `train` and `val`, BENCH_LABELED how many labeled photographs there are
(60,200,600), BENCH_MINUTES how long a training takes, pretraining included (8), BENCH_EPOCHS how many passes the
pretraining makes over the photographs of the largest count, without their labels (8), BENCH_SEEDS the seeds, BENCH_INIT
published weights to go on from (none: `small` from nothing), and BENCH_FOLDER where everything is kept: an interrupted
bench continues there, but for a pretraining, whose minutes would be wrong. Every number is that of a command as users
type it.
"""

import json
import os
import statistics
from collections.abc import Iterator
from pathlib import Path

from tests.bench.measure import Figure, log
from tests.bench.transfer import keep_in, packed, run_command, settings, train


def figures(folder: Path) -> Iterator[Figure]:
    source, init = os.environ.get("BENCH_SOURCE", ""), os.environ.get("BENCH_INIT", "")
    if not source:
        log("pretrain: needs BENCH_SOURCE=pairs; see tests/bench/README.md")
        return
    keep = keep_in(Path(os.environ.get("BENCH_FOLDER", folder / "pretrain")))
    counts = [int(count) for count in os.environ.get("BENCH_LABELED", "60,200,600").split(",")]
    seeds, minutes = int(os.environ.get("BENCH_SEEDS", "1")), float(os.environ.get("BENCH_MINUTES", "8"))
    network, what = (["--init", init], Path(init).stem) if init else (["--preset", "small"], "small")
    passes = ["--epochs", os.environ.get("BENCH_EPOCHS", "8")]
    ratios: dict[int, list[float]] = {count: [] for count in counts}
    for seed in range(seeds):
        kept = keep / f"pretrained-{seed}.json"
        if not kept.exists():
            words = ["pretrain", packed(source, max(counts), keep), *network, *settings(seed), *passes, "--no-resume"]
            kept.write_text(json.dumps(run_command(words)))
        done = json.loads(kept.read_text())
        spent = done["seconds"] / 60
        if spent >= minutes:
            raise SystemExit(f"pretraining took {spent:.1f} min: BENCH_MINUTES has to be more")
        log(f"pretraining of {what}, seed {seed}: loss {done['loss']:.4f}, {spent:.1f} min")
        for count in counts:
            shards, words = packed(source, count, keep), [*settings(seed), "--epochs", "1000"]
            before = train(f"{what}, {minutes} min", shards, [*network, *words, "--max-minutes", f"{minutes:.2f}"])
            words = ["--preset", "tiny" if init else "small", "--init", f"runs:/{done['run_id']}", *words]
            after = train(f"{what}, pretrained", shards, [*words, "--max-minutes", f"{minutes - spent:.2f}"])
            ratios[count].append(after.miou / before.miou)
    for count, found in ratios.items():
        yield Figure(
            f"pretrain: mIoU of {what} with / without pretraining, {count} photographs, equal minutes",
            round(statistics.median(found), 4), goal=1.0, better="higher", rounds=seeds,
        )  # fmt: skip
