"""Map the chunks of a job over threads, processes, Dask or Ray: a few at a time, so that a job that can't succeed stops early."""

import queue
import time
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from prefect import task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.futures import PrefectFuture
from prefect.tasks import exponential_backoff

from flows.display.console import note, pluralize, progress
from flows.tasks import Runner
from flows.tasks.runners import CLUSTER_AHEAD, as_they_end, cores, make_runner, may_pass
from vitseg.errors import DataError, StorageError, StoreFullError, VitsegError
from vitseg.inference.chunk import segment_chunk
from vitseg.inference.job import Job
from vitseg.inference.ledger import ChunkCounts
from vitseg.inference.model import SHARES

_MAX_IN_A_ROW = 3  # chunks that may fail one after another, with all their retries: then the store is to blame
_SHOWN_FAILURES = 5  # objects that are named when they fail
_PAGE_SECONDS = 5
_SHARE_BYTES = 8 * 2**30  # of a GPU's memory: CUDA, the model, and scores of 4 million pixels several times over

_finished: "queue.SimpleQueue[int]" = queue.SimpleQueue()
"""Numbers of objects that chunks in this very process have finished; in other processes, only whole chunks count."""


@task(retries=2, retry_delay_seconds=exponential_backoff(backoff_factor=1), retry_jitter_factor=0.5,
      retry_condition_fn=may_pass, task_run_name="chunk-{index}")  # fmt: skip
def do_chunk(job: Job, index: int, threads: int | None) -> ChunkCounts:
    """Segment one chunk of the frozen listing, unless its rows are there already."""
    return _do(job, index, threads)


def _do(job: Job, index: int, threads: int | None) -> ChunkCounts:
    # A function of its own: a task is sent to other processes with all that it refers to, and a queue can't be sent.
    return segment_chunk(job, index, threads=threads, progress=_finished.put)


def default_runner() -> Runner:
    """Return where chunks run best: processes where there is more than one for the GPUs, else threads, which start at once."""
    return "process" if _gpus() and default_workers("process") > 1 else "thread"


def default_workers(runner: str) -> int:
    """Return how many chunks run at a time: on GPUs what keeps them busy, else as many as there are cores.

    Threads of one process share its interpreter: two fill a GPU's pauses, and more than four would wait for each other.
    Reading and writing keeps a process and two cores busy long before it does a GPU: so several share it, as many as its
    memory allows.
    """
    if not (gpus := _gpus()):
        return min(cores(), 4) if runner == "thread" else cores()
    if runner == "thread":
        return 2
    return gpus * max(1, min(SHARES, cores() // (2 * gpus), _gpu_memory() // _SHARE_BYTES))


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _gpu_memory() -> int:
    import torch

    return torch.cuda.get_device_properties(0).total_memory


def run_chunks(job: Job, runner: str, workers: int, max_failures: int | None) -> list[ChunkCounts]:
    """Segment all chunks; one that fails is retried, and doesn't stop the others.

    Raises:
        VitsegError: chunks failed in spite of retries, more than `max_failures` objects failed, or the job can't succeed.
    """
    outcome = Outcome(job, max_failures)
    with progress("segmenting", job.listed, "objects") as show:
        job_progress = JobProgress(job, show)
        left = list(range(job.chunks))
        while left:
            suspects = _run(left, runner, workers, outcome, job_progress)
            if suspects:
                note(f"a worker died (out of memory?): {pluralize(len(suspects), 'chunk')} once more, each alone")
            for index in suspects:  # only one of them is to blame
                if _run([index], runner, 1, outcome, job_progress):
                    outcome.lose(index, StorageError("its worker died again, alone with it (out of memory?)"))
            left = [index for index in left if index not in outcome.counts and index not in outcome.lost]
    if outcome.lost:
        index, error = next(iter(outcome.lost.items()))
        raise StorageError(
            f"{pluralize(len(outcome.lost), 'chunk')} of {job.chunks} could not be done, the others are "
            f"(chunk {index}: {error or type(error).__name__}); the same command goes on from here"
        ) from error
    return list(outcome.counts.values())


def _run(indexes: list[int], runner: str, workers: int, outcome: "Outcome", job_progress: "JobProgress") -> list[int]:
    """Run chunks, some more at a time than there are workers; return those under way when a worker died."""
    here = runner in ("thread", "process")
    ahead = workers + 1 if here else max(workers + 1, CLUSTER_AHEAD)
    threads = max(1, cores() // workers) if here else None  # Dask and Ray set it for their workers
    suspects: list[int] = []
    allowed = takewhile(lambda _: not suspects, indexes)

    def submit(index: int) -> PrefectFuture[ChunkCounts]:
        return pool.submit(do_chunk, {"job": outcome.job, "index": index, "threads": threads})

    with make_runner(runner, workers) as pool:
        for index, future in as_they_end(submit, allowed, ahead, on_wait=job_progress.update):
            try:
                counts = future.result()
            except BrokenExecutor:  # the pool is gone, and all that was in it
                suspects.append(index)
            except Exception as error:  # noqa: BLE001 - `lose` decides
                outcome.lose(index, error)
            else:
                outcome.add(index, counts)
                job_progress.ended(index)
    return suspects


@dataclass
class Outcome:
    """What became of the chunks so far; stops the job where it can't succeed."""

    job: Job
    max_failures: int | None
    counts: dict[int, ChunkCounts] = field(default_factory=dict)
    lost: dict[int, Exception] = field(default_factory=dict)
    """Chunks without a result, and why."""
    failed: int = 0
    """Objects that failed."""
    in_a_row: int = 0
    """Chunks that were lost since the last success."""

    def add(self, index: int, counts: ChunkCounts) -> None:
        """Take the result of a chunk; DataError: more than `max_failures` objects have failed."""
        for key, reason in counts.failures[: max(0, _SHOWN_FAILURES - self.failed)]:
            note(f"failed: {key}: {reason}")
        self.counts[index] = counts
        self.failed += counts.failed
        self.in_a_row = 0
        if self.max_failures is not None and self.failed > self.max_failures:
            raise DataError(
                f"{pluralize(self.failed, 'object')} failed, more than --max-failures {self.max_failures}: the job has stopped "
                f"after {len(self.counts)} of {self.job.chunks} chunks; the same command tries again what failed, and goes on"
            )

    def lose(self, index: int, error: Exception) -> None:
        """Go on without a chunk, or raise its error where other chunks would fail, too."""
        for_all = isinstance(error, VitsegError) and not isinstance(error, StorageError)
        self.in_a_row += 1
        if for_all or isinstance(error, StoreFullError) or self.in_a_row == _MAX_IN_A_ROW:
            raise error
        self.lost[index] = error
        note(f"chunk {index} failed: {error or type(error).__name__}")


class JobProgress:
    """Shows how far a job is: in the terminal object by object, on the flow run's page every few seconds."""

    def __init__(self, job: Job, show: Any) -> None:
        self._job, self._show = job, show
        self._ended = self._reported = 0
        self._shown = time.monotonic()
        self._page: Any = create_progress_artifact(
            progress=0.0, key="segment-progress", description="objects, per cent"
        )
        while not _finished.empty():  # of another job in this process
            _finished.get()

    def update(self) -> None:
        """Show what has been done by now."""
        while not _finished.empty():
            self._reported += _finished.get()
        done = min(max(self._ended, self._reported), self._job.listed)
        self._show(done, self._job.listed)
        if done == self._job.listed or time.monotonic() - self._shown > _PAGE_SECONDS:
            self._shown = time.monotonic()
            update_progress_artifact(self._page, progress=100 * done / self._job.listed)

    def ended(self, index: int) -> None:
        """Count a chunk that has ended."""
        self._ended += self._job.size(index)
        self.update()
