"""The shards that an epoch needs, opened in the background before their turn and closed after it."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from vitseg.data.tar_index import OpenShard

_THREADS = 4  # downloads at a time


class ShardPrefetcher:
    """Opens shards in the order of their first use, up to `ahead` of them before they are needed.

    Belongs to one consumer thread; only `open_shard` runs in others.
    """

    def __init__(self, open_shard: Callable[[int], OpenShard], steps: Sequence[np.ndarray], *, ahead: int) -> None:
        """Plan; nothing is opened yet. `steps` are the shards that the samples of each step lie in, int64 (B,)."""
        self._open_shard = open_shard
        self._needs = [set(shards.tolist()) for shards in steps]
        self._last = {shard: step for step, shards in enumerate(self._needs) for shard in shards}
        self._queue = list(dict.fromkeys(shard for shards in steps for shard in shards.tolist()))
        self._turn = {shard: turn for turn, shard in enumerate(self._queue)}
        self._ahead = ahead
        self._files: dict[int, Future[OpenShard]] = {}
        self._started = 0
        self._pool = ThreadPoolExecutor(_THREADS, "vitseg-shard")

    def ready(self, step: int) -> bool:
        """Start to open a step's shards and those ahead of it; return whether the step's are open."""
        end = max(self._turn[shard] for shard in self._needs[step]) + 1 + self._ahead
        for shard in self._queue[self._started : end]:
            self._files[shard] = self._pool.submit(self._open_shard, shard)
            self._started += 1
        return all(self._files[shard].done() for shard in self._needs[step])

    def of_step(self, step: int) -> dict[int, OpenShard]:
        """Return a step's shards, and wait for them; raises what opening one of them raised."""
        self.ready(step)
        return {shard: self._files[shard].result() for shard in self._needs[step]}

    def release(self, step: int) -> None:
        """Close the shards that no later step needs."""
        for shard in self._needs[step]:
            if self._last[shard] == step:
                self._files.pop(shard).result().close()

    def close(self) -> None:
        """Close all that is open, and what still opens as soon as it is; does not wait for downloads."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for future in self._files.values():
            future.add_done_callback(_close_opened)


def _close_opened(future: Future[OpenShard]) -> None:
    if not future.cancelled() and future.exception() is None:
        future.result().close()
