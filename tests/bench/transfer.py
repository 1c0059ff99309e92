"""What a start from published weights is worth: `vitseg train --init` on few labeled photographs, and `small` from nothing.

BENCH_INIT names the weights, BENCH_SOURCE a folder of real pairs with `train` and `val`, BENCH_LABELED how many labeled
photographs there are (60,200,600), BENCH_SEEDS the seeds, BENCH_EPOCHS the passes over them (10), and BENCH_FOLDER where
shards, jobs, the tracking database, curves and panels are kept: an interrupted bench continues there. Every number is that
of a command as users type it.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from PIL import Image

from tests.bench.measure import Figure, log
from tests.bench.networks import SHOWN
from tests.bench.quality import shards_of
from vitseg.data.loader import Batches
from vitseg.data.manifest import read_manifest
from vitseg.labels import palette
from vitseg.masks import colorize
from vitseg.pictures.panels import contact_sheet
from vitseg.registry import versions

SCRATCH, PROBE, LINEAR, TUNED = "small from nothing", "frozen, linear", "linear", "fine-tuned"
COLORS = {SCRATCH: "#b07aa1", PROBE: "#f28e2b", LINEAR: "#59a14f", TUNED: "#4e79a7"}
STARTS = {
    PROBE: ["model.encoder=frozen", "model.decoder=linear"],
    LINEAR: ["model.patch_size=16", "model.decoder=linear"],
    TUNED: ["model.patch_size=16"],
}
"""What is set besides `--init`. The linear decoder is the yardstick: what the encoder knows without help. Patches of 16 pixels
have finer ones of 4 in them, those of 14 only of 7."""


@dataclass(frozen=True)
class Result:
    """What a command gave."""

    miou: float
    accuracy: float
    minutes: float
    uri: str


def figures(folder: Path) -> Iterator[Figure]:
    init, source = os.environ.get("BENCH_INIT", ""), os.environ.get("BENCH_SOURCE", "")
    if not init or not source:
        log("transfer: needs BENCH_INIT=weights and BENCH_SOURCE=pairs; see tests/bench/README.md")
        return
    keep = keep_in(Path(os.environ.get("BENCH_FOLDER", folder / "transfer")))
    counts = [int(count) for count in os.environ.get("BENCH_LABELED", "60,200,600").split(",")]
    seeds, epochs = int(os.environ.get("BENCH_SEEDS", "2")), int(os.environ.get("BENCH_EPOCHS", "10"))
    found: dict[str, dict[int, list[Result]]] = {name: {} for name in COLORS}
    for count in counts:
        shards = packed(source, count, keep)
        for seed in range(seeds):
            for name, keys in STARTS.items():
                words = ["--init", init, *settings(seed, *keys), "--epochs", str(epochs)]
                found[name].setdefault(count, []).append(train(name, shards, words))
            minutes = found[TUNED][count][-1].minutes
            words = ["--preset", "small", *settings(seed, "run.select=last"), "--epochs", "1000"]
            words += ["--max-minutes", f"{minutes:.2f}"]
            found[SCRATCH].setdefault(count, []).append(train(SCRATCH, shards, words))
    once = train(
        "fine-tuned, one pass",
        packed(source, counts[-1], keep),
        ["--init", init, *settings(0, *STARTS[TUNED]), "--epochs", "1"],
    )
    draw_curves(found).save(keep / "curves.png")
    draw_panels(packed(source, counts[-1], keep), {name: runs[counts[-1]][0] for name, runs in found.items()}).save(
        keep / "panels.png"
    )
    log(f"curves and panels: {keep}")
    yield Figure("transfer: mIoU fine-tuned, one pass", round(once.miou, 4), 0.20, "higher", 1)
    for name, goal in ((PROBE, 0.226), (TUNED, 0.40)):
        scores = [run.miou for run in found[name][counts[-1] if name == TUNED else counts[-2]]]
        yield Figure(f"transfer: mIoU {name}", round(statistics.median(scores), 4), goal, "higher", seeds)
    for count in counts:
        for other, goal in ((SCRATCH, 1.5), (LINEAR, 1.05)):
            pairs = zip(found[TUNED][count], found[other][count], strict=True)
            ratio = statistics.median(ours.miou / theirs.miou for ours, theirs in pairs)
            yield Figure(
                f"transfer: mIoU fine-tuned / {other}, {count} photographs", round(ratio, 4), goal, "higher", seeds
            )


def packed(source: str, count: int, keep: Path) -> str:
    """Pack `count` training photographs, evenly spread over all by name, and all of the validation split; only once."""
    folder = keep / f"shards-{count}"
    if not (folder / "real" / "manifest.json").exists():
        with tempfile.TemporaryDirectory() as temporary:
            for split in ("train", "val"):
                (Path(temporary) / split).mkdir()
                names = sorted((Path(source) / split).resolve().iterdir())
                if split == "train" and len(names) < count:
                    raise SystemExit(f"{source}/train has {len(names)} pairs: BENCH_LABELED asks for {count}")
                taken = [names[index * len(names) // count] for index in range(count)] if split == "train" else names
                for name in taken:
                    (Path(temporary) / split / name.name).symlink_to(name)
            shards_of(folder, temporary)
    return str(folder / "real")


def keep_in(folder: Path) -> Path:
    """Have all commands keep their servers' state in a folder, and return it."""
    keep = folder.resolve()
    os.environ |= {"VITSEG_HOME": str(keep / "home"), "MLFLOW_TRACKING_URI": f"sqlite:///{keep / 'runs.db'}"}
    return keep


def settings(seed: int, *keys: str) -> list[str]:
    """Return the options that set these keys of the recipe, and a seed."""
    return [word for setting in (*keys, f"run.seed={seed}", "run.evaluate_epochs=5") for word in ("--set", setting)]


def run_command(words: list[str]) -> dict[str, Any]:
    """Run `vitseg`, and return what it prints."""
    command = [sys.executable, "-c", "from flows.cli import main; main()", *words, "--json"]
    return dict(json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout))


def train(name: str, shards: str, words: list[str]) -> Result:
    """Run `vitseg train`; what is trained already in the folder is not trained again."""
    done = run_command(["train", shards, *words])
    metrics = done["metrics"]
    result = Result(metrics["miou"], metrics["pixel_accuracy"], done["seconds"] / 60, done["model_uri"])
    log(
        f"{name}, {Path(shards).parent.name}: mIoU {result.miou:.4f}, accuracy {result.accuracy:.4f}, {result.minutes:.1f} min"
    )
    return result


def draw_curves(found: Mapping[str, Mapping[int, list[Result]]]) -> Image.Image:
    """Draw validation mIoU over labeled photographs, a point a seed and a line through their means."""
    figure = Canvas(figsize=(7, 4.2), dpi=110, facecolor="white", layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, runs in found.items():
        means = [statistics.mean(run.miou for run in results) for results in runs.values()]
        axes.plot(list(runs), means, "-", lw=1.8, color=COLORS[name], label=name)
        for count, results in runs.items():
            axes.plot([count] * len(results), [run.miou for run in results], "o", ms=4, color=COLORS[name])
    axes.set_title("validation mIoU over labeled photographs", loc="left", fontsize=11)
    axes.set_xscale("log")
    axes.set_xticks(counts := list(found[TUNED]), [str(count) for count in counts], minor=False)
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.grid(color="#e5e5e5")
    axes.spines[:].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def draw_panels(shards: str, shown: Mapping[str, Result]) -> Image.Image:
    """Draw the same validation photographs with the labels and the prediction of each model."""
    manifest = read_manifest(shards)
    batch = next(iter(Batches(shards, manifest, "val", batch_size=SHOWN, shuffle=False, drop_last=False).epoch(0)))
    colors = palette(manifest.classes)
    columns = {"ground truth": batch.labels.numpy()}
    columns |= {name: versions.load(result.uri).segment(batch.images).numpy() for name, result in shown.items()}
    cells = []
    for index in range(len(batch.images)):
        cells.append((batch.keys[index], Image.fromarray(batch.images[index].permute(1, 2, 0).numpy())))
        cells += [(name, Image.fromarray(colorize(ids[index], colors))) for name, ids in columns.items()]
    return contact_sheet(cells, columns=len(columns) + 1, width=256)
