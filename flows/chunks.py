"""Map the chunks of a job over threads, processes, Dask or Ray: a few at a time, so that a hopeless job stops early."""

import os
import queue
import time
from collections.abc import Generator
from concurrent.futures import BrokenExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from prefect import task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.futures import PrefectFuture
from prefect.tasks import exponential_backoff

from flows.choices import Runner
from flows.console import counted, note, progress
from flows.runners import make_runner, may_pass
from vitseg.errors import DataError, StorageError, StoreFullError
from vitseg.inference.chunk import segment_chunk
from vitseg.inference.job import Job
from vitseg.inference.ledger import ChunkCounts

_HOPELESS = 3  # chunks one after another that fail, after their retries: then it is the store, not the chunk
_LIVES = 3  # times that a chunk may cost its worker's life
_CLUSTER_AHEAD = 256  # chunks that wait at a cluster, whose workers nobody has counted
_TOLD = 5  # failed objects, as they occur
_LOOK_SECONDS = 0.5
_PAGE_SECONDS = 5

_seen: "queue.SimpleQueue[int]" = queue.SimpleQueue()
"""Objects that chunks in this very process have done; those in others tell when they end."""


@dataclass
class Outcome:
    """What became of the chunks so far."""

    counts: dict[int, ChunkCounts] = field(default_factory=dict)
    lost: dict[int, BaseException] = field(default_factory=dict)
    """Chunks without a result, and why."""
    in_a_row: int = 0
    """Chunks that were lost since the last that was not."""

    @property
    def failed(self) -> int:
        """Objects that failed."""
        return sum(part.failed for part in self.counts.values())


@task(retries=2, retry_delay_seconds=exponential_backoff(backoff_factor=1), retry_jitter_factor=0.5,
      retry_condition_fn=may_pass, task_run_name="chunk-{index}")  # fmt: skip
def do_chunk(job: Job, index: int, threads: int | None) -> ChunkCounts:
    """Segment one chunk of the frozen listing, unless its rows are there already."""
    return _do(job, index, threads)


def _do(job: Job, index: int, threads: int | None) -> ChunkCounts:
    # By name: the task itself travels to other processes with all that it refers to, and a queue can't.
    return segment_chunk(job, index, threads=threads, progress=_seen.put)


def run_chunks(job: Job, runner: str, workers: int, max_failures: int | None) -> list[ChunkCounts]:
    """Segment all chunks; one that fails is retried, and doesn't keep the others from being done.

    Raises:
        VitsegError: chunks have failed for good, more objects than `max_failures` have, or going on makes no sense.
    """
    # Dask and Ray tell their workers how many threads to use.
    own = runner in ("thread", "process") and not _gpus()
    threads = max(1, (os.cpu_count() or 1) // workers) if own else None
    outcome = Outcome()
    left = list(range(job.chunks))
    with progress("segmenting", job.listed, "objects") as show:
        for _ in range(_LIVES):
            ahead = workers + 1 if runner in ("thread", "process") else max(workers + 1, _CLUSTER_AHEAD)
            # Closed at once if the job stops: what has not begun is not begun any more.
            with closing(_run(job, left, make_runner(runner, workers), ahead, threads, outcome, show)) as ended:
                for index in ended:
                    _judge(job, index, outcome, max_failures)
            left = [index for index in left if isinstance(outcome.lost.get(index), BrokenExecutor)]
            if not left:
                break
            note(f"a worker died (out of memory?): {counted(len(left), 'chunk')} once more, on new ones")
    if outcome.lost:
        index, error = next(iter(outcome.lost.items()))
        raise StorageError(
            f"{counted(len(outcome.lost), 'chunk')} of {job.chunks} could not be done, the others are "
            f"(chunk {index}: {error or type(error).__name__}); the same command goes on from here"
        ) from error
    return list(outcome.counts.values())


def default_runner() -> Runner:
    """Return where chunks run best: a process for each of several GPUs, else threads, that need not start."""
    return "process" if _gpus() > 1 else "thread"


def default_workers(runner: str) -> int:
    """Return how many chunks go at a time: two share a GPU, so that it never waits; else as many as there are cores.

    Threads of one process also share its interpreter: over four they wait for each other.
    """
    cores, gpus = os.cpu_count() or 1, _gpus()
    if gpus:
        return 2 if runner == "thread" else gpus
    return min(cores, 4) if runner == "thread" else cores


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _run(
    job: Job, indexes: list[int], runner: Any, ahead: int, threads: int | None, outcome: Outcome, show: Any
) -> Generator[int]:
    """Run chunks, `ahead` of them at a time, and yield each as it ends."""
    ended: queue.SimpleQueue[PrefectFuture[ChunkCounts]] = queue.SimpleQueue()
    waiting = iter(indexes)
    running: dict[PrefectFuture[ChunkCounts], int] = {}

    def begin() -> None:
        if (index := next(waiting, None)) is not None:
            future = runner.submit(do_chunk, {"job": job, "index": index, "threads": threads})
            running[future] = index
            future.add_done_callback(ended.put)

    while not _seen.empty():
        _seen.get()
    done = before = sum(job.size(index) for index in outcome.counts)
    page = _Page(job.listed)
    with runner:
        for _ in range(ahead):
            begin()
        while running:
            try:
                future = ended.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                while not _seen.empty():
                    before += _seen.get()
                show(min(max(done, before), job.listed), job.listed)
                continue
            index = running.pop(future)
            outcome.lost.pop(index, None)
            try:
                outcome.counts[index] = future.result()
                done += job.size(index)
                show(min(max(done, before), job.listed), job.listed)
                page.show(done)
            except Exception as error:  # noqa: BLE001 - told apart by `_judge`
                outcome.lost[index] = error
            yield index
            begin()


class _Page:
    """The progress on the flow run's page, told every few seconds."""

    def __init__(self, listed: int) -> None:
        self._listed, self._told = listed, time.monotonic()
        self._id: Any = create_progress_artifact(progress=0.0, key="segment-progress", description="objects, per cent")

    def show(self, done: int) -> None:
        """Tell how many objects are done."""
        if done == self._listed or time.monotonic() - self._told > _PAGE_SECONDS:
            self._told = time.monotonic()
            update_progress_artifact(self._id, progress=100 * done / self._listed)


def _judge(job: Job, index: int, outcome: Outcome, max_failures: int | None) -> None:
    """Tell about a chunk that has ended, and stop the job where going on makes no sense.

    Raises:
        VitsegError: it does not.
    """
    if error := outcome.lost.get(index):
        passing = isinstance(error, StorageError | OSError | BrokenExecutor)
        if not passing or isinstance(error, StoreFullError):
            raise error
        note(f"chunk {index} failed: {error or type(error).__name__}")
        outcome.in_a_row += not isinstance(error, BrokenExecutor)
        if outcome.in_a_row == _HOPELESS:
            raise error
        return
    outcome.in_a_row = 0
    told = outcome.failed - outcome.counts[index].failed
    for key, reason in outcome.counts[index].failures[: max(0, _TOLD - told)]:
        note(f"failed: {key}: {reason}")
    if max_failures is not None and outcome.failed > max_failures:
        raise DataError(
            f"{outcome.failed} objects have failed, more than --max-failures {max_failures}: the job has stopped after "
            f"{len(outcome.counts)} of {job.chunks} chunks; the same command tries again what failed, and goes on"
        )
