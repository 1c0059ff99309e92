"""Flow: shards → a job → ranks under `torch.distributed.run` → a registered version."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from prefect import flow, runtime

from flows.display.console import note
from flows.tasks.other_nodes import meeting_place
from flows.tasks.plan_training import plan_training
from flows.tasks.register_version import register
from flows.tasks.run_training import fail_run_on_error, run_on_nodes, run_training
from vitseg.config import load_layers
from vitseg.recipes import Preset
from vitseg.registry.names import check_name
from vitseg.storage import canonical
from vitseg.training.nodes import Nodes


@flow(name="train", flow_run_name="train {preset} on {shards}")
def train(
    shards: str,
    *,
    preset: Preset = "tiny",
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    nproc: int | None = None,
    nnodes: int = 1,
    rendezvous: str = "",
    name: str = "vitseg",
    resume: bool = True,
    init: str = "",
    max_minutes: float | None = None,
    wait_minutes: float = 30,
) -> dict[str, Any]:
    """Train a model and register it; a job that was interrupted goes on, one that is finished is not done twice.

    Args:
        shards: address of the folder that holds manifest.json.
        preset: architecture and recipe.
        recipe: a TOML file laid over the preset.
        overrides: `section.key=value` laid over both.
        nproc: ranks on each node; by default one a GPU, or 1.
        nnodes: nodes; with more than one, `train-node` runs on the others: a deployment starts it there.
        rendezvous: `host:port` where several nodes meet, if `train-node` is started by hand; it has to be on this node.
        name: registered model.
        resume: go on with an unfinished job of the same data, recipe and start; False starts over.
        init: weights to start from (see `vitseg.training.start_address`); "": from scratch.
        max_minutes: training ends after so long, all its attempts together, and what it has learned is registered; told
            more the next time, it goes on.
        wait_minutes: so long a deployment waits for workers for its other nodes.
    """
    check_name(name)
    shards = canonical(shards)
    resume = resume or (runtime.flow_run.run_count or 1) > 1  # its process was killed, and its server starts it again
    starts_nodes = nnodes > 1 and not rendezvous and bool(runtime.deployment.id)
    rendezvous = meeting_place() if starts_nodes else rendezvous
    nodes = Nodes(nproc or max(1, torch.cuda.device_count()), nnodes, rendezvous)
    layers = load_layers(preset, recipe, overrides)
    job = plan_training(shards, layers, nodes, name=name, resume=resume, init=init, max_minutes=max_minutes)
    if job.result:
        more = "time was up: a larger --max-minutes, or none, goes on"
        hint = more if job.result.get("stopped") == "minutes" else "--no-resume trains it again"
        note(f"nothing to do: this recipe on this data is {job.result['model_uri']} already ({hint})")
        return dict(job.result)
    start = time.monotonic()
    with fail_run_on_error(job):
        if starts_nodes:
            run_on_nodes(job, nodes, wait_minutes)
        else:
            run_training(job, nodes)
        return register(job, name, time.monotonic() - start, nodes.world_size)
