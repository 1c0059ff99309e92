"""Where mapped tasks run: threads, processes, Dask or Ray. One task is a shard or a chunk: seconds, not milliseconds."""

import os
import queue
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar, get_args

from prefect.futures import PrefectFuture
from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner

from flows.tasks import Runner
from vitseg.errors import StorageError, StoreFullError, UsageError

CLUSTER_AHEAD = 256
"""Tasks that wait or run at a cluster, whose number of workers is not known here."""
_WAIT_SECONDS = 0.5

T = TypeVar("T")
R = TypeVar("R")


def make_runner(name: str, workers: int | None = None) -> Any:
    """Return a Prefect task runner with `workers` workers, or as many as there are cores.

    Raises:
        UsageError: an unknown name, or its extra is not installed.
    """
    workers = workers or cores()
    if name == "thread":
        return ThreadPoolTaskRunner(max_workers=workers)
    if name == "process":
        return ProcessPoolTaskRunner(max_workers=workers)
    if name not in get_args(Runner):
        raise UsageError(f"--runner {name}: choose {', '.join(get_args(Runner))}")
    try:
        if name == "dask":
            from prefect_dask import DaskTaskRunner

            address = os.environ.get("DASK_SCHEDULER_ADDRESS")
            local = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
            return DaskTaskRunner(address=address) if address else DaskTaskRunner(cluster_kwargs=local)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        from prefect_ray import RayTaskRunner

        alone: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        return RayTaskRunner(init_kwargs={**alone, "logging_level": "ERROR"})
    except ImportError as error:
        raise UsageError(f"--runner {name} needs its extra: pip install 'vitseg[{name}]'") from error


def as_they_end(
    submit: Callable[[T], PrefectFuture[R]],
    items: Iterable[T],
    ahead: int,
    on_wait: Callable[[], None] = lambda: None,
) -> Iterator[tuple[T, PrefectFuture[R]]]:
    """Submit a task for each item, up to `ahead` at a time, and yield items and futures as they end, in any order.

    `on_wait` is called every half second in which none ends.
    """
    ended: queue.SimpleQueue[PrefectFuture[R]] = queue.SimpleQueue()
    waiting, running = iter(items), dict[PrefectFuture[R], T]()

    def begin(count: int) -> None:
        for item in islice(waiting, count):
            future = submit(item)
            running[future] = item
            future.add_done_callback(ended.put)

    begin(ahead)
    while running:
        try:
            future = ended.get(timeout=_WAIT_SECONDS)
        except queue.Empty:
            on_wait()
            continue
        yield running.pop(future), future
        begin(1)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def may_pass(task: Any, run: Any, state: Any) -> bool:
    """Return whether another try may succeed: a store may recover; data, credentials, usage or a full disk don't."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, StorageError | OSError) and not isinstance(error, StoreFullError)
