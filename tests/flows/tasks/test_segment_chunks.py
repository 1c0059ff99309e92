"""Which chunks are given up, which are tried again, and when a job stops: with a pool whose workers die on purpose."""

from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from types import SimpleNamespace
from typing import Any

import pytest

from flows.tasks import segment_chunks
from vitseg.errors import AccessError, DataError, StorageError, StoreFullError
from vitseg.inference.ledger import ChunkCounts


class Pool:
    """Does a chunk when it is asked how it went; a deadly one takes all that are in flight with it, and the pool."""

    def __init__(self, deadly: set[int], errors: dict[int, Exception], failed: int, log: list[list[int]]) -> None:
        self.deadly, self.errors, self.failed = deadly, errors, failed
        self.dead, self.submitted = False, []
        log.append(self.submitted)

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *error: object) -> None:
        self.dead = True

    def submit(self, task: Any, parameters: dict[str, Any]) -> Future[ChunkCounts]:
        index = parameters["index"]
        self.submitted.append(index)
        future: Future[ChunkCounts] = Future()
        self.dead = self.dead or index in self.deadly
        if self.dead:
            future.set_exception(BrokenProcessPool("a child process terminated abruptly"))
        elif index in self.errors:
            future.set_exception(self.errors[index])
        else:
            ok = 1 - self.failed
            future.set_result(ChunkCounts(index=index, ok=ok, skipped=0, failed=self.failed, written=ok))
        return future


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(
        segment_chunks, "JobProgress", lambda job, show: SimpleNamespace(update=lambda: None, ended=lambda index: None)
    )
    said: list[str] = []
    monkeypatch.setattr(segment_chunks, "note", said.append)

    def run(
        count: int, *, deadly: tuple[int, ...] = (), errors: Any = None, failed: int = 0, most: int | None = None
    ) -> Any:
        pools: list[list[int]] = []
        monkeypatch.setattr(segment_chunks, "make_runner", lambda *_: Pool(set(deadly), errors or {}, failed, pools))
        job = SimpleNamespace(chunks=count, listed=count, size=lambda index: 1)
        try:
            return segment_chunks.run_chunks(job, "process", 3, most), pools, said
        except Exception as error:  # noqa: BLE001 - what the test looks at
            return error, pools, said

    return run


def test_nothing_is_done_twice(run: Any) -> None:
    counts, pools, said = run(50)
    assert sorted(part.index for part in counts) == list(range(50))
    assert sorted(pools[0]) == list(range(50))
    assert (len(pools), said) == (1, [])


@pytest.mark.parametrize("deadly", [(0,), (7,), (19,), (3, 4), (0, 10, 19)])
def test_only_the_chunk_that_kills_its_worker_is_lost(run: Any, deadly: tuple[int, ...]) -> None:
    error, pools, said = run(20, deadly=deadly)
    assert isinstance(error, StorageError)
    assert f"{len(deadly)} chunk" in str(error)
    assert "of 20 could not be done" in str(error)
    asked = [index for pool in pools for index in pool]
    assert set(asked) == set(range(20))
    assert all(asked.count(index) <= 3 for index in set(range(20)) - set(deadly))
    assert sum("failed" in text for text in said) == len(deadly)
    assert len(pools) <= 6 * len(deadly) + 1


def test_one_that_fails_does_not_stop_the_others(run: Any) -> None:
    error, pools, _ = run(
        20, errors={4: StorageError("SlowDown"), 11: MemoryError("no memory"), 17: RuntimeError("killed")}
    )
    assert "3 chunks of 20 could not be done, the others are (chunk 4: SlowDown)" in str(error)
    assert sorted(pools[0]) == list(range(20))


@pytest.mark.parametrize(
    ("error", "most"),
    [
        (StorageError("down"), 7),
        (RuntimeError("a bug"), 7),
        (StoreFullError("full"), 4),
        (AccessError("no"), 4),
        (DataError("x"), 4),
    ],
)
def test_a_hopeless_job_stops_early(run: Any, error: Exception, most: int) -> None:
    raised, pools, _ = run(100, errors=dict.fromkeys(range(100), error))
    assert raised is error
    assert len(pools[0]) <= most


def test_too_many_failures_stop_it_too(run: Any) -> None:
    raised, pools, _ = run(100, failed=1, most=5)
    assert isinstance(raised, DataError)
    assert "6 objects failed, more than --max-failures 5" in str(raised)
    assert len(pools[0]) <= 10
    assert len(run(100, failed=1, most=100)[0]) == 100


@pytest.mark.parametrize(
    ("gpus", "cores", "gibibytes", "runner", "workers"),
    [
        (0, 16, 0, "thread", 4),
        (1, 16, 141, "process", 8),
        (1, 64, 141, "process", 8),  # more would only wait for it
        (1, 16, 24, "process", 3),
        (1, 2, 141, "thread", 2),
        (1, 16, 6, "thread", 2),
        (2, 2, 6, "process", 2),  # one each
        (4, 64, 80, "process", 32),
    ],
)
def test_a_gpu_is_shared_by_as_many_processes_as_cores_and_memory_allow(
    monkeypatch: pytest.MonkeyPatch, gpus: int, cores: int, gibibytes: int, runner: str, workers: int
) -> None:
    monkeypatch.setattr(segment_chunks, "_gpus", lambda: gpus)
    monkeypatch.setattr(segment_chunks, "_gpu_memory", lambda: gibibytes * 2**30)
    monkeypatch.setattr(segment_chunks, "cores", lambda: cores)
    assert segment_chunks.default_runner() == runner
    assert segment_chunks.default_workers(runner) == workers
