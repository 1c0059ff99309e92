"""Clocks of the training loop: the speed of the last while, and the time that a training may take."""

import time
from collections import deque
from collections.abc import Iterable, Iterator

from vitseg.data.loader import Batch

_RECENT_SECONDS = 30.0


class BatchClock:
    """Measures batches a second over the last while, and the share of that time spent waiting for them."""

    def __init__(self) -> None:
        self._batches, self._waiting = 0, 0.0
        self._marks: deque[tuple[float, int, float]] = deque()  # time, batches and seconds of waiting until then
        self._mark()

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches, and measure how long each takes to come."""
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
