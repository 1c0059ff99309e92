"""Flow: one more node for a training that `train` runs elsewhere."""

import socket
import time
from collections.abc import Callable, Sequence
from uuid import UUID

import torch
from prefect import flow, runtime, task
from prefect.logging import get_run_logger

from flows.display.console import note
from flows.tasks.other_nodes import has_ended, ranks_end_with
from flows.tasks.run_training import can_retry, leave_with_worker
from vitseg.config import load_layers
from vitseg.data.manifest import read_manifest
from vitseg.errors import NotFoundError, RankLostError
from vitseg.recipes import Preset
from vitseg.storage import canonical
from vitseg.training.job import Job, read_job
from vitseg.training.launch import run_ranks
from vitseg.training.nodes import Nodes, split_address
from vitseg.training.plan import new_job

_POLL_SECONDS = 2
_AGAIN_MINUTES = 5.0


@flow(name="train-node", flow_run_name="train-node on {shards}")
def train_node(
    shards: str,
    *,
    nnodes: int,
    rendezvous: str,
    preset: Preset = "tiny",
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    nproc: int | None = None,
    init: str = "",
    minutes: float = 30,
    job: str = "",
) -> None:
    """Give this machine's ranks to a training with the same parameters; end when it does.

    The folder of a job is a function of data, recipe and start, so this node works it out. `train`
    as a deployment knows it, and starts this flow anew for each of its attempts; else this one tries again by itself.

    Args:
        shards: address of the folder that holds manifest.json.
        nnodes: nodes, all together.
        rendezvous: `host:port` where they meet: on the node that runs `train`.
        preset: architecture and recipe.
        recipe: a TOML file laid over the preset.
        overrides: `section.key=value` laid over both.
        nproc: ranks on this node; by default one a GPU, or 1.
        init: weights to start from, as for `train`.
        minutes: how long this node waits for the first one.
        job: folder of the job, which says what recipe and start are; from `train` as a deployment.

    Raises:
        RankLostError: nothing listens at the rendezvous in time, or ranks were lost.
    """
    nodes = Nodes(nproc or max(1, torch.cuda.device_count()), nnodes, rendezvous, first=False)
    shards = canonical(shards)
    if job:
        planned = read_job(job)
        if planned is None:
            raise NotFoundError(f"{job} holds no job.json: this node must reach what `train` writes to")
        run_node.with_options(retries=0)(planned, nodes, minutes)
        return
    layers = load_layers(preset, recipe, overrides)
    run_node(new_job(shards, read_manifest(shards), layers, nodes.world_size, init=init).job, nodes, minutes)


# More retries than `train` has: one is lost where this node is back before the first one has ended.
@task(retries=5, retry_delay_seconds=5, retry_condition_fn=lambda task, run, state: can_retry(state))
def run_node(job: Job, nodes: Nodes, minutes: float) -> None:
    """Run this node's ranks when the first one is there. Lost ranks: again, if the first node comes back soon."""
    leave_with_worker()
    leader = runtime.flow_run.parent_flow_run_id
    again = (runtime.task_run.run_count or 1) > 1
    minutes = min(minutes, _AGAIN_MINUTES) if again else minutes
    note(f"waiting for the first node at {nodes.rendezvous}, for {minutes:g} minutes at most")
    wait_for(nodes.rendezvous, 60 * minutes, lambda: has_ended(leader))
    note(f"working for job {job.folder}")
    with ranks_end_with([UUID(leader)] if leader else []):
        run_ranks(job.folder, nodes, on_event=lambda event: None, on_line=get_run_logger().info)


def wait_for(rendezvous: str, seconds: float, gone: Callable[[], bool] = lambda: False) -> None:
    """Wait until something listens at `host:port`: torch gives up after a minute, or at once where the name is unknown.

    Raises:
        RankLostError: nothing does, or the run that should is `gone`.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(split_address(rendezvous), timeout=5).close()
            return
        except OSError as error:
            if gone():
                raise RankLostError(
                    f"nobody will come to {rendezvous}: the run that asked for this node has ended"
                ) from error
            if time.monotonic() > deadline:
                raise RankLostError(f"nobody listens at {rendezvous} after {seconds:.0f} s ({error})") from error
            time.sleep(_POLL_SECONDS)
