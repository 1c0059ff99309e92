"""How far a training is: steps, the history of its epochs, the best of them, its speed and the time that it may take."""

import math
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from vitseg.data.loader import Batch

_RECENT_SECONDS = 30.0


@dataclass
class Totals:
    """Sums over all ranks: the loss and what divides it, correct pixels and those that have a class."""

    loss: float = 0.0
    count: float = 0.0
    correct: float = 0.0
    valid: float = 0.0

    def __add__(self, other: "Totals") -> "Totals":
        count, valid = self.count + other.count, self.valid + other.valid
        return Totals(self.loss + other.loss, count, self.correct + other.correct, valid)

    def means(self, prefix: str = "") -> dict[str, float]:
        """Return mean loss, and pixel accuracy where pixels have classes."""
        means = {f"{prefix}loss": self.loss / (self.count or 1.0)}
        return means | ({f"{prefix}pixel_accuracy": self.correct / self.valid} if self.valid else {})


@dataclass
class BestEpoch:
    """The best validated epoch so far: its score, the validations since then, and its weights on the CPU."""

    epoch: int = 0
    score: float = -math.inf
    since: int = 0
    weights: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def update(self, epoch: int, score: float, weights: Mapping[str, torch.Tensor]) -> None:
        """Take a validated epoch's place if its score is better; NaN is not."""
        if not score > self.score:
            self.since += 1
            return
        self.epoch, self.score, self.since = epoch, score, 0
        self.weights = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}

    def state(self) -> dict[str, float]:
        """Return all but the weights as plain data."""
        return {"epoch": self.epoch, "score": self.score, "since": self.since}


@dataclass
class Progress:
    """How far a training is, equal on all ranks but for the weights of the best epochs, which rank 0 keeps.

    `totals` are those of the epoch under way, `time_used` is the share of the time budget when the last step was taken.
    `best_complete` is the best of the complete epochs: one that the time budget cut short is validated as it is, and no
    longer counts when training goes on.
    """

    step: int = 0
    totals: Totals = field(default_factory=Totals)
    history: list[dict[str, Any]] = field(default_factory=list)
    time_used: float = 0.0
    best: BestEpoch = field(default_factory=BestEpoch)
    best_complete: BestEpoch = field(default_factory=BestEpoch)

    def finish_epoch(self, row: dict[str, Any], steps_per_epoch: int) -> None:
        """Put an epoch's row into the history; an epoch that was cut short may have one already."""
        self.history = [*(earlier for earlier in self.history if earlier["epoch"] < row["epoch"]), row]
        if self.step % steps_per_epoch == 0:
            self.best_complete, self.totals = replace(self.best), Totals()


def mark_chosen(history: Sequence[dict[str, Any]], best: int) -> list[dict[str, Any]]:
    """Return history with the epoch whose weights become the model marked in it: the best one, or the last (0)."""
    chosen = best or history[-1]["epoch"]
    return [{**row, "chosen": True} if row["epoch"] == chosen else row for row in history]


def chosen_row(history: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the row of the epoch whose weights became the model."""
    return next((row for row in history if row.get("chosen")), history[-1])


class BatchClock:
    """Measures batches a second over the last while, and the share of that time spent waiting for them."""

    def __init__(self) -> None:
        self._batches, self._waiting = 0, 0.0
        self._marks: deque[tuple[float, int, float]] = deque()  # time, batches and seconds of waiting until then
        self._mark()

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches, and measure how long each takes to come."""
        start = time.perf_counter()
        for batch in batches:
            self._waiting += time.perf_counter() - start
            self._batches += 1
            yield batch
            self._mark()
            start = time.perf_counter()

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
    def data_wait(self) -> float:
        """Share of the time, 0–1."""
        start, _, waiting = self._marks[0]
        return (self._waiting - waiting) / (time.perf_counter() - start)


class TimeBudget:
    """The time that a training may take, all its attempts together; None: any time."""

    def __init__(self, minutes: float | None) -> None:
        self._minutes = minutes
        self._before = 0.0
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds used so far."""
        return self._before + time.monotonic() - self._start

    @seconds.setter
    def seconds(self, before: float) -> None:
        self._before, self._start = before, time.monotonic()

    def share(self, seconds: float) -> float:
        """Return some seconds as a share of the budget, 0–1 or more; 0 where there is no limit."""
        return seconds / (60 * self._minutes) if self._minutes else 0.0
