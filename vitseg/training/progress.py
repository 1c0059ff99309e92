"""What a training measures of itself, and whom it tells: sums over pixels, the time of steps, which epoch was best."""

import math
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from vitseg.data.loader import Batch

_RECENT_SECONDS = 30.0


class Recorder:
    """Hears how training goes. This one does nothing with it: the recorder of every rank but 0."""

    def start(self, step: int, history: list[dict[str, Any]]) -> None:
        """Hear how many steps are done already, and the rows of the epochs before."""

    def step(self, step: int, values: dict[str, float]) -> None:
        """Hear of a step that is to be logged."""

    def epoch(self, row: dict[str, Any]) -> None:
        """Hear of an epoch that is trained and validated."""

    def panels(self, model: nn.Module, epoch: int) -> None:
        """Draw the fixed validation images as the model sees them now."""

    def pending(self) -> list[Any]:
        """Return, as plain data, what was heard but is still under way: it goes into the checkpoint."""
        return []

    def take_up(self, pending: list[Any]) -> None:
        """Take care of what was pending in the checkpoint from which training goes on."""

    def close(self) -> None:
        """Deliver what is still under way."""


@dataclass
class Sums:
    """Totals over the pixels of all ranks: the loss and what divides it, right pixels and those with a class."""

    loss: float = 0.0
    count: float = 0.0
    correct: float = 0.0
    valid: float = 0.0

    def __add__(self, other: "Sums") -> "Sums":
        count, valid = self.count + other.count, self.valid + other.valid
        return Sums(self.loss + other.loss, count, self.correct + other.correct, valid)

    def means(self, prefix: str = "") -> dict[str, float]:
        """Return mean loss, and pixel accuracy where pixels have classes."""
        means = {f"{prefix}loss": self.loss / (self.count or 1.0)}
        return means | ({f"{prefix}pixel_accuracy": self.correct / self.valid} if self.valid else {})


@dataclass
class Best:
    """The best validated epoch so far: its score, how many validations came after it, and its weights on the CPU."""

    epoch: int = 0
    score: float = -math.inf
    since: int = 0
    weights: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def consider(self, row: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> None:
        """Compare a validated epoch with the best one, and take its place if it is better."""
        score = score_of(row)
        if not score > self.score:  # nor if it is no number
            self.since += 1
            return
        self.epoch, self.score, self.since = row["epoch"], score, 0
        self.weights = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}

    def state(self) -> dict[str, float]:
        """Return all but the weights as plain data."""
        return {"epoch": self.epoch, "score": self.score, "since": self.since}


def score_of(row: Mapping[str, Any]) -> float:
    """Return what the epochs of a training are compared by, the more the better: mIoU, PSNR of image pairs, or -loss."""
    for name in ("val/miou", "val/psnr"):
        if name in row:
            return float(row[name])
    return -float(row["val/loss"])


def mark_chosen(history: Sequence[dict[str, Any]], best: int) -> list[dict[str, Any]]:
    """Return history with the epoch whose weights become the model marked in it: the best one, or the last (0)."""
    chosen = best or history[-1]["epoch"]
    return [{**row, "chosen": True} if row["epoch"] == chosen else row for row in history]


def chosen_row(history: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the row of the epoch whose weights became the model."""
    return next((row for row in history if row.get("chosen")), history[-1])


class Clock:
    """Measures batches a second over the last while, and the share of that time spent waiting for them."""

    def __init__(self) -> None:
        self._batches, self._waiting = 0, 0.0
        self._marks: deque[tuple[float, int, float]] = deque()  # when, how many batches, and how much waiting by then
        self._mark()

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Hand on batches, and note how long each was waited for."""
        iterator = iter(batches)
        while True:
            start = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._waiting += time.perf_counter() - start
            self._batches += 1
            yield batch
            self._mark()

    def _mark(self) -> None:
        now = time.perf_counter()
        self._marks.append((now, self._batches, self._waiting))
        while len(self._marks) > 2 and self._marks[1][0] < now - _RECENT_SECONDS:
            self._marks.popleft()

    @property
    def rate(self) -> float:
        """Batches a second."""
        start, batches, _ = self._marks[0]
        return (self._batches - batches) / (time.perf_counter() - start)

    @property
    def waited(self) -> float:
        """Share of the time, 0–1."""
        start, _, waiting = self._marks[0]
        return (self._waiting - waiting) / (time.perf_counter() - start)


class Budget:
    """The time that a training may take, all its attempts together."""

    def __init__(self, minutes: float | None) -> None:
        self._minutes = minutes
        self._before = 0.0
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """What was used so far."""
        return self._before + time.monotonic() - self._start

    @seconds.setter
    def seconds(self, before: float) -> None:
        self._before, self._start = before, time.monotonic()

    def share(self, seconds: float) -> float:
        """Return which share of it some seconds are, 0–1 or more; 0 where time does not matter."""
        return seconds / (60 * self._minutes) if self._minutes else 0.0
