"""`python -m tests.odd [--minutes M] [--seed N] [--count N] [--kind KIND] [--keep FOLDER]`: thousands of odd inputs.

Each try has a seed, so `--kind masks --seed 71 --count 1` makes that of a line below once more. Prints one line for each new
kind of outcome that is not right, and at the end a table. With `--keep`, what was not right stays in FOLDER/KIND-SEED.
"""

import argparse
import random
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch

from tests.odd.judge import BAD, READ, VERDICTS, workplace
from tests.odd.tries import TRIES


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.odd", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of the first try")
    parser.add_argument("--count", type=int, default=10**9, help="of tries, all kinds together")
    parser.add_argument("--kind", choices=TRIES, action="append", help="only these; may be repeated")
    parser.add_argument("--keep", type=Path, help="folder for inputs that are not read right")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    kinds, end = options.kind or list(TRIES), time.monotonic() + 60 * options.minutes
    counts: Counter[tuple[str, str]] = Counter()
    tries: Counter[str] = Counter()
    damaged: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for kind, seed in _plan(kinds, options.seed, options.count):
        if time.monotonic() > end:
            break
        with workplace() as work:
            judgment = TRIES[kind](random.Random(f"{kind} {seed}"), work)
            tries[kind] += 1
            for (what, verdict), number in judgment.counts.items():
                counts[kind, verdict] += number
                damaged[kind] += number * (" | " in what)
            new = [line for line in judgment.lines if not seen[_shape(kind, *line)]]
            seen.update(_shape(kind, *line) for line in judgment.lines)
            for verdict, text in new:
                _say(f"{kind} --seed {seed} | {verdict} | {' '.join(text.split())[:400]}")
            if options.keep and judgment.bad:
                shutil.copytree(work, options.keep / f"{kind}-{seed}", symlinks=True, dirs_exist_ok=True)
    _show(kinds, tries, damaged, counts)
    return int(any(counts[kind, verdict] for kind in kinds for verdict in BAD))


def _plan(kinds: list[str], seed: int, count: int) -> Iterator[tuple[str, int]]:
    return ((kinds[number % len(kinds)], seed + number // len(kinds)) for number in range(count))


def _shape(kind: str, verdict: str, text: str) -> str:
    """Return what is the same for all lines of one kind of outcome."""
    return f"{kind} {verdict} " + re.sub(r"b?'[^']*'|turn \d|[\d.]+|0x\w+", "*", " ".join(text.split()))[:160]


def _show(kinds: list[str], tries: Counter[str], damaged: Counter[str], counts: Counter[tuple[str, str]]) -> None:
    _say(f"{'':14}{'tries':>8}{'inputs':>8}{'damaged':>9}" + "".join(f"{verdict:>23}" for verdict in VERDICTS))
    for kind in kinds:
        row = [counts[kind, verdict] for verdict in VERDICTS]
        _say(f"{kind:14}{tries[kind]:8}{sum(row):8}{damaged[kind]:9}" + "".join(f"{number:23}" for number in row))
    _say(f"{sum(counts[kind, READ] for kind in kinds)} inputs were read right")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
