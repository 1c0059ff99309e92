"""How long the parts of the work take: what to look at where a job is slower than its model."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

STAGES = ("check", "fetch", "decode", "forward", "encode", "write")
"""Is the mask there? · read the object · image → model's input · model → class ids · PNG and pictures · put them."""


class Stopwatch:
    """Adds up seconds by stage, over all threads: they may be more than the clock's."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._lock = threading.Lock()

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Count the time of a block, also if it fails."""
        started = time.perf_counter()
        try:
            yield
        finally:
            passed = time.perf_counter() - started
            with self._lock:
                self.seconds[stage] += passed
