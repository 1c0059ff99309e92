"""Flow: shards → ranks under `torch.distributed.run` → evaluated, registered, and loaded back."""

import contextlib
import functools
import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from prefect import flow, runtime, task
from prefect.logging import get_run_logger

from flows.display.console import note, pluralize
from flows.display.training_table import show_training
from flows.tasks.other_nodes import meeting_place, other_nodes
from flows.tasks.register_version import register
from vitseg.config import load_recipe
from vitseg.data.manifest import read_manifest
from vitseg.errors import NameTakenError, RankLostError, StorageError, StoreFullError, VitsegError
from vitseg.labels import logit_count
from vitseg.recipe import Recipe
from vitseg.recipes import Preset
from vitseg.registry import metric_upload, tracking, versions
from vitseg.storage import canonical, open_store
from vitseg.training.agent import leave_with
from vitseg.training.initial_weights import FILE, Initial, fit_initial
from vitseg.training.job import Job, forget_job, job_folder, read_job, write_job
from vitseg.training.launch import run_ranks
from vitseg.training.nodes import Nodes
from vitseg.training.objectives import OBJECTIVES
from vitseg.training.plan import check


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
        init: weights to start from (see `vitseg.training.initial_weights`); "": from scratch.
        max_minutes: training ends after so long, all its attempts together, and what it has learned is registered; told
            more the next time, it goes on.
        wait_minutes: so long a deployment waits for workers for its other nodes.
    """
    shards = canonical(shards)
    resume = resume or (runtime.flow_run.run_count or 1) > 1  # its process was killed, and its server starts it again
    starts_nodes = nnodes > 1 and not rendezvous and bool(runtime.deployment.id)
    rendezvous = meeting_place() if starts_nodes else rendezvous
    nodes = Nodes(nproc or max(1, torch.cuda.device_count()), nnodes, rendezvous)
    resolved = fitting(load_recipe(preset, recipe, overrides), shards)
    job = plan_job(shards, resolved, nodes, name, resume, init, max_minutes)
    if job.result:
        again = (
            "time was up: a larger --max-minutes, or none, goes on" if job.result.get("stopped") == "minutes" else ""
        )
        note(
            f"nothing to do: this recipe on this data is {job.result['model_uri']} already "
            f"({again or '--no-resume trains it again'})"
        )
        return dict(job.result)
    start = time.monotonic()
    try:
        if starts_nodes:
            run_on_nodes(job, nodes, wait_minutes)
        else:
            run_training(job, nodes)
        return register(job, name, time.monotonic() - start, nodes.nproc * nodes.nnodes)
    except BaseException:
        with contextlib.suppress(VitsegError):  # a tracking server that is away must not hide the reason
            tracking.end_run(job.run_id, "FAILED")
        raise


@task
def plan_job(
    shards: str,
    recipe: Recipe,
    nodes: Nodes,
    name: str,
    resume: bool,
    init: str = "",
    max_minutes: float | None = None,
) -> Job:
    """Find or make the job of this data, recipe and start, with a run on the tracking server."""
    manifest = read_manifest(shards)
    check(Job("", shards, manifest.fingerprint, recipe), manifest, nodes.nproc * nodes.nnodes)
    fresh, start = find_job(shards, recipe, init)
    folder = fresh.folder
    job = replace(read_job(folder) or fresh, recipe=recipe) if resume else fresh
    more = job.gets_more_time(max_minutes)
    job = replace(job, max_minutes=max_minutes)
    if job.result and not more and versions.is_version_of(name, job.result["model_uri"]):
        return job
    if job.run_id and tracking.run_exists(job.run_id):
        done = f"trained already, in {folder}: registering it as {name}"
        note(done if job.result and not more else f"going on with an unfinished job in {folder}")
        job = replace(job, result={})
        write_job(job)
        return job
    params = run_parameters(recipe)
    if start:
        params |= {"init": start.address, "init.sha256": start.sha256}
        note(f"starting from {start.address}: {start.taken}")
    tags = {"vitseg.job": folder, "vitseg.shards": shards, "vitseg.fingerprint": manifest.fingerprint}
    run_id = tracking.start_run(f"{name} {job.folder.rpartition('/')[2]}", params, tags)
    tracking.log_text(run_id, json.dumps(recipe.to_json(), indent=1), "recipe.json")
    if not resume:
        forget_job(folder)
    if start:
        open_store(folder).write(FILE, start.data)
    job = replace(job, run_id=run_id, result={})
    write_job(job)
    return job


@task(retries=2, retry_delay_seconds=5, retry_condition_fn=lambda task, run, state: tries_again(state))
def run_training(job: Job, nodes: Nodes) -> None:
    """Run the ranks to the recipe's last epoch, showing what they say. A lost rank: again, from the checkpoint."""
    leave_with_worker()
    manifest = read_manifest(job.shards)
    run, log = job.recipe.run, get_run_logger()
    steps = run.epochs * (manifest.splits["train"].samples // job.recipe.data.batch_size)
    note(
        f"{pluralize(nodes.nproc * nodes.nnodes, 'rank')}, {pluralize(steps, 'step')} of {job.recipe.data.batch_size} images, "
        f"{pluralize(run.epochs, 'epoch')}"
    )
    if nodes.nnodes > 1:
        note(
            f"{nodes.nnodes} nodes meet at {nodes.rendezvous}; by hand, the others are `vitseg train-node` with the same options"
        )
    name = job.folder.rstrip("/").rpartition("/")[2]
    with show_training(
        name, run.epochs, steps // run.epochs, OBJECTIVES[job.task].metric(manifest), job.max_minutes
    ) as on_event:
        run_ranks(job.folder, nodes, on_event=on_event, on_line=log.info)
    _deliver_rest(job.folder)


@task(retries=2, retry_delay_seconds=5, retry_condition_fn=lambda task, run, state: tries_again(state))
def run_on_nodes(job: Job, nodes: Nodes, minutes: float) -> None:
    """Do as `run_training`, on this node and on others that are started for it: new ones for each attempt."""
    nodes = replace(nodes, rendezvous=meeting_place())  # a node of the last attempt may still be at the last place
    with other_nodes(job, nodes, minutes):
        run_training.fn(job, nodes)


def find_job(shards: str, recipe: Recipe, init: str) -> tuple[Job, Initial | None]:
    """Return the job of this data, recipe and start, as it is before anything was done for it, and the start."""
    manifest = read_manifest(shards)
    start = fit_initial(init, recipe.model, manifest.image_size, logit_count(manifest.classes)) if init else None
    address, sha256 = (start.address, start.sha256) if start else ("", "")
    folder = job_folder(shards, manifest.fingerprint, recipe, sha256)
    return Job(folder, shards, manifest.fingerprint, recipe, init=address, init_sha256=sha256), start


def run_parameters(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as a run's parameters: `section.key`."""
    return {f"{section}.{key}": value for section, keys in recipe.to_json().items() for key, value in keys.items()}


def fitting(recipe: Recipe, shards: str) -> Recipe:
    """Return the recipe with target `rgb` where the data set has pairs of images and no classes."""
    if read_manifest(shards).targets != "images":
        return recipe
    note("this data set has pairs of images and no classes: model.target=rgb, and model.pixels=fixed to see brightness")
    return replace(recipe, model=replace(recipe.model, target="rgb", pixels="fixed"))


@functools.cache  # once a process: a retry must not add a second watcher
def leave_with_worker() -> None:
    """End this process when the Prefect worker that has started it is gone: killed, it can't end its runs itself."""
    if os.environ.get("PREFECT__FLOW_RUN_ID"):
        leave_with(os.getppid(), at_once=False)


def _deliver_rest(folder: str) -> None:
    """Deliver the metrics that the ranks had to keep; where the tracking server is still away, say how to do it later."""
    if not open_store(folder).stat(metric_upload.UNDELIVERED):
        return
    note("delivering the metrics for which the tracking server was away")
    try:
        metric_upload.upload(folder)
    except VitsegError as error:
        note(f"they are kept, for `vitseg registry upload-metrics {folder}`: {error}")


def tries_again(state: Any) -> bool:
    """Say whether another try may help, and tell it: the same memory, disk or command would fail again."""
    error = state.result(raise_on_failure=False)
    lost = isinstance(error, RankLostError | StorageError) and not isinstance(error, StoreFullError | NameTakenError)
    if lost:
        note(f"{error}; going on from the newest checkpoint")
    return lost
