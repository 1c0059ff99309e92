"""Task: a job → ranks under `torch.distributed.run`, on this machine or on several, to the last epoch."""

import contextlib
import functools
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from prefect import task
from prefect.logging import get_run_logger

from flows.display.console import note, pluralize
from flows.display.training_table import show_training
from flows.tasks.other_nodes import meeting_place, other_nodes
from vitseg.child_processes import end_with_parent
from vitseg.data.manifest import read_manifest
from vitseg.errors import NameTakenError, RankLostError, StorageError, StoreFullError, VitsegError
from vitseg.registry import metric_upload, tracking
from vitseg.storage import open_store
from vitseg.training.job import Job
from vitseg.training.launch import run_ranks
from vitseg.training.nodes import Nodes
from vitseg.training.objectives import OBJECTIVES


@task(retries=2, retry_delay_seconds=5, retry_condition_fn=lambda task, run, state: can_retry(state))
def run_training(job: Job, nodes: Nodes) -> None:
    """Run the ranks to the recipe's last epoch, and show their progress. A lost rank: again, from the checkpoint."""
    leave_with_worker()
    manifest = read_manifest(job.shards)
    epochs, batch_size = job.recipe.run.epochs, job.recipe.data.batch_size
    per_epoch = manifest.splits["train"].samples // batch_size
    note(
        f"{pluralize(nodes.world_size, 'rank')}, {pluralize(epochs * per_epoch, 'step')} of {batch_size} images, "
        f"{pluralize(epochs, 'epoch')}"
    )
    if nodes.nnodes > 1:
        note(
            f"{nodes.nnodes} nodes meet at {nodes.rendezvous}; by hand, the others are `vitseg train-node` with the same options"
        )
    metric = OBJECTIVES[job.task].metric(manifest)
    with show_training(job.name, epochs, per_epoch, metric, job.max_minutes) as on_event:
        run_ranks(job.folder, nodes, on_event=on_event, on_line=get_run_logger().info)
    _deliver_metrics(job.folder)


@task(retries=2, retry_delay_seconds=5, retry_condition_fn=lambda task, run, state: can_retry(state))
def run_on_nodes(job: Job, nodes: Nodes, minutes: float) -> None:
    """Do as `run_training`, on this node and on others that are started for it: new ones for each attempt."""
    nodes = replace(nodes, rendezvous=meeting_place())  # a node of the last attempt may still be at the last place
    with other_nodes(job, nodes, minutes):
        run_training.fn(job, nodes)


def can_retry(state: Any) -> bool:
    """Return whether another try may help, and report it: the same memory, disk or command would fail again."""
    error = state.result(raise_on_failure=False)
    lost = isinstance(error, RankLostError | StorageError) and not isinstance(error, StoreFullError | NameTakenError)
    if lost:
        note(f"{error}; going on from the newest checkpoint")
    return lost


@contextlib.contextmanager
def fail_run_on_error(job: Job) -> Iterator[None]:
    """Mark the job's run as failed where the block fails."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(VitsegError):  # a tracking server that is away must not hide the reason
            tracking.end_run(job.run_id, "FAILED")
        raise


@functools.cache  # once a process: a retry must not add a second watcher
def leave_with_worker() -> None:
    """End this process when the Prefect worker that has started it is gone: killed, it can't end its runs itself."""
    if os.environ.get("PREFECT__FLOW_RUN_ID"):
        end_with_parent()


def _deliver_metrics(folder: str) -> None:
    """Deliver the metrics that the ranks had to keep; where the tracking server is still away, say how to do it later."""
    if not open_store(folder).stat(metric_upload.UNDELIVERED):
        return
    note("delivering the metrics for which the tracking server was away")
    try:
        metric_upload.upload(folder)
    except VitsegError as error:
        note(f"they are kept, for `vitseg registry upload-metrics {folder}`: {error}")
