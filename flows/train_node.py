"""Flow: one more node for a training that `train` runs elsewhere."""

import socket
import time
from collections.abc import Sequence

import torch
from prefect import flow
from prefect.logging import get_run_logger

from flows.choices import Preset
from flows.console import note
from flows.train import find_job, fitting
from vitseg.config import load_recipe
from vitseg.errors import RankLostError
from vitseg.storage import canonical
from vitseg.training.launch import Nodes, run_ranks

_POLL_SECONDS = 2


@flow(name="train-node", flow_run_name="train-node {preset} on {shards}")
def train_node(
    shards: str,
    nnodes: int,
    rendezvous: str,
    preset: Preset = "tiny",
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    nproc: int | None = None,
    init: str = "",
    minutes: float = 30,
) -> None:
    """Give this machine's ranks to a training that is told the same; end when it does.

    The folder of a job is a function of data, recipe and start, so this node works it out instead of being told.

    Args:
        shards: address of the folder that holds manifest.json.
        nnodes: nodes, all together.
        rendezvous: `host:port` where they meet: on the node that runs `train`.
        preset: architecture and recipe.
        recipe: a TOML file laid over the preset.
        overrides: `section.key=value` laid over both.
        nproc: ranks on this node; by default one a GPU, or 1.
        init: weights to start from, as `train` is told.
        minutes: so long this node waits for the first one.

    Raises:
        RankLostError: nobody listens at the rendezvous in time.
    """
    nodes = Nodes(nproc or max(1, torch.cuda.device_count()), nnodes, rendezvous)
    shards = canonical(shards)
    job, _ = find_job(shards, fitting(load_recipe(preset, recipe, overrides), shards), init)
    note(f"waiting for the first node at {rendezvous}")
    wait_for(rendezvous, 60 * minutes)
    note(f"working for job {job.folder}")
    run_ranks(job.folder, nodes, on_event=lambda event: None, on_line=get_run_logger().info)


def wait_for(rendezvous: str, seconds: float) -> None:
    """Wait until somebody listens at `host:port`: torch gives up after a minute, or at once where the name is unknown.

    Raises:
        RankLostError: nobody does.
    """
    host, _, port = rendezvous.rpartition(":")
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise RankLostError(f"nobody listens at {rendezvous} after {seconds:.0f} s ({error})") from error
            time.sleep(_POLL_SECONDS)
