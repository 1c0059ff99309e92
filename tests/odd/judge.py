"""Truth and outcome → what the product made of an odd input."""

import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.odd.product import Prepared, Segmented

READ, TOLD, REFUSED, UNNOTICED, WRONG, FAULT = VERDICTS = (
    "read right", "told", "refused though clear", "not to be noticed", "wrong silently", "exceptions and noise",
)  # fmt: skip
BAD = (WRONG, FAULT)


@dataclass
class Judgment:
    """What became of the inputs of one try: how many of each kind and verdict, and a line for each that is not right."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By what an input is, and the verdict."""
    lines: list[tuple[str, str]] = field(default_factory=list)
    """Verdict and description."""

    def add(self, what: str, verdict: str, why: str = "") -> None:
        self.counts[what, verdict] += 1
        if verdict not in (READ, TOLD, UNNOTICED):
            self.lines.append((verdict, f"{what}: {why}"))

    def faults(self, what: str, faults: list[str]) -> None:
        for fault in faults:
            self.add(what, FAULT, fault)

    @property
    def bad(self) -> list[str]:
        """Lines of what must not be."""
        return [f"{verdict}: {line}" for verdict, line in self.lines if verdict in BAD]


@contextmanager
def workplace() -> Iterator[Path]:
    """Make a folder for one try."""
    with tempfile.TemporaryDirectory(prefix="odd-") as name:
        yield Path(name)


def looks_like(pixels: np.ndarray, truth: np.ndarray, off: float) -> bool:
    """Return whether pixels, uint8 (H, W, 3), are the true ones, but for what a lossy format changes."""
    if pixels.shape != truth.shape:
        return False
    difference = np.abs(pixels.astype(int) - truth)
    return bool(difference.mean() <= off and np.quantile(difference.max(-1), 0.9) <= 12 * off)


def write_files(root: Path, files: dict[str, bytes]) -> None:
    for key, data in files.items():
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def judge_repetition(judgment: Judgment, what: str, first: Prepared | Segmented, second: Prepared | Segmented) -> None:
    if first.outcome != second.outcome:
        judgment.add(
            what, FAULT, f"another outcome when repeated: {first.error} {first.faults} / {second.error} {second.faults}"
        )


def pick_name(r: random.Random, number: int, extension: str) -> str:
    """Return a file name that is unique by its number, and may be odd otherwise."""
    stem = r.choice(
        [
            "{}",
            "{}",
            "{}",
            "photo {}",
            "a/b{}",
            "ä{}",
            "x#{}",
            "q?{}",
            "50%20{}",
            "-{}",
            "{} ",
            "'{}'",
            "\u00e9e\u0301{}",
            "日本{}",
            "a.b.{}",
            "[{}]*",
            "n\n{}",
        ]
    )
    return f"{stem.format(number)}.{extension}"
