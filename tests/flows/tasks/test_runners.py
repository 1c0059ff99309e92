"""Where tasks run, which of them are tried again, and how many go at a time."""

import threading
from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from flows.tasks import runners
from vitseg.errors import AccessError, DataError, StorageError, StoreFullError, UsageError


def test_tasks_come_as_they_end_and_only_some_go_at_a_time() -> None:
    futures: dict[str, Future[str]] = {}

    def submit(name: str) -> Future[str]:
        futures[name] = Future()
        return futures[name]

    ended = runners.as_they_end(submit, ["a", "b", "c"], 2)
    threading.Timer(0.1, lambda: futures["b"].set_result("B")).start()
    assert next(ended) == ("b", futures["b"])
    assert list(futures) == ["a", "b"]
    threading.Timer(0.1, lambda: [futures[name].set_result(name.upper()) for name in ("a", "c")]).start()
    assert {name: future.result() for name, future in ended} == {"a": "A", "c": "C"}


def test_waiting_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runners, "_WAIT_SECONDS", 0.01)
    future: Future[None] = Future()
    waits: list[int] = []

    def on_wait() -> None:
        waits.append(1)
        if len(waits) == 3:
            future.set_result(None)

    assert list(runners.as_they_end(lambda item: future, [1], 5, on_wait=on_wait)) == [(1, future)]


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (StorageError("slow down"), True),
        (OSError("no more files"), True),
        (StoreFullError("no room"), False),
        (DataError("changed"), False),
        (AccessError("refused"), False),
    ],
)
def test_only_what_may_pass_is_tried_again(error: Exception, again: bool) -> None:
    assert runners.may_pass(None, None, SimpleNamespace(result=lambda raise_on_failure: error)) is again


def test_an_unknown_runner_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="choose thread, process, dask, ray"):
        runners.make_runner("spark")
