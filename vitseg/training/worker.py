"""What one rank runs: `python -m vitseg.training.worker JOB_FOLDER`, started by `torch.distributed.run`."""

import functools
import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from vitseg import dist
from vitseg.data.loader import Batches
from vitseg.data.manifest import Manifest, read_manifest
from vitseg.errors import UsageError, VitsegError
from vitseg.evaluation import Task
from vitseg.git_commit import code_commit
from vitseg.labels import logit_count, palette
from vitseg.losses import balanced_weights
from vitseg.model.bundle import save_bundle
from vitseg.model.segmenter import Segmenter, build_model
from vitseg.recipe import Recipe
from vitseg.storage import open_store
from vitseg.training.agent import AGENT, leave_with
from vitseg.training.initial_weights import load_initial
from vitseg.training.job import MASKED, Job, check, read_job
from vitseg.training.loop import Trainer
from vitseg.training.masked import pretrain_rank
from vitseg.training.precision import make_deterministic
from vitseg.training.progress import Recorder
from vitseg.training.rank_events import say
from vitseg.training.rank_failure import described
from vitseg.training.throughput import measure_throughput, training_flops
from vitseg.training.watchdog import FIRST_MINUTES, watched

PANEL_IMAGES = 6


def main(job_folder: str) -> int:
    """Train this rank's share of a job; return the exit code."""
    leave_with(int(os.environ.get(AGENT) or os.getppid()), at_once=True)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    recipe = None
    try:
        recipe = find_job(job_folder).recipe
        # The watchdog, which can say who hung, goes first.
        train_rank(job_folder, dist.start(recipe.run.hang_minutes + FIRST_MINUTES + 1))
    except Exception as error:  # noqa: BLE001 - told with its traceback, as what ended this rank
        say("error", **described(error, int(os.environ.get("RANK", "0")), recipe))
        return error.exit_code if isinstance(error, VitsegError) else 1
    dist.stop()
    return 0


def find_job(job_folder: str) -> Job:
    """Return the job of a folder.

    Raises:
        UsageError: there is none.
    """
    job = read_job(job_folder)
    if job is None:
        raise UsageError(f"{job_folder} holds no job.json: start with `vitseg train`")
    return job


def train_rank(job_folder: str, world: dist.World) -> None:
    """Build model and batches from the job's recipe, train, and leave the bundle in the job's folder."""
    job = find_job(job_folder)
    if job.recipe.run.deterministic:
        make_deterministic()
    manifest = read_manifest(job.shards)
    check(job, manifest, world.world_size)
    if job.task == MASKED:
        pretrain_rank(job, manifest, world, *batches_of(job.shards, manifest, job.recipe, world))
        return
    recipe, classes = job.recipe, manifest.classes
    recorder = Recorder()
    try:
        with watched(recipe.run.hang_minutes) as alive:
            model = build_model(recipe.model, manifest.image_size, logit_count(classes), recipe.run.seed)
            if job.init:
                load_initial(model, job.folder, job.init_sha256)  # every rank reads the same file
            model = model.to(world.device)
            task = task_of(manifest, recipe, world.device)
            data, validation = batches_of(job.shards, manifest, recipe, world)
            flops = training_flops(recipe, manifest.image_size, logit_count(classes))
            throughput = measure_throughput(flops, recipe.run.precision, world)
            if world.rank == 0:
                from vitseg.training.recorder import RunRecorder  # imports MLflow: only rank 0 waits for that

                shown = Batches(job.shards, manifest, "val", batch_size=PANEL_IMAGES, shuffle=False, drop_last=False)
                first = next(iter(shown.epoch(0)))
                recorder = RunRecorder(job.run_id, job.folder, first, classes, task, throughput)
            trainer = Trainer(
                recipe, world, model, task, data, validation, open_store(job.checkpoints), recorder, alive,
                max_minutes=job.max_minutes, commit=code_commit(),
            )  # fmt: skip
            history = trainer.run()
        trainer.choose()
        if world.rank == 0:
            _leave_results(job, model, manifest, history)
    finally:
        recorder.close()


def task_of(manifest: Manifest, recipe: Recipe, device: torch.device) -> Task:
    """Return what a recipe learns from a data set; balanced weights come from the manifest's counts of `train`."""
    classes = manifest.classes
    balanced = recipe.loss.class_weights == "balanced"
    weights = balanced_weights(manifest.splits["train"].pixels_per_class).to(device) if balanced else None
    colors = torch.from_numpy(palette(classes)).to(device)
    return Task(recipe.model.target, len(classes), colors, recipe.loss, weights)


def batches_of(shards: str, manifest: Manifest, recipe: Recipe, world: dist.World) -> tuple[Batches, Batches]:
    """Return this rank's training and validation batches."""
    batches = functools.partial(
        Batches, shards, manifest,
        batch_size=recipe.data.batch_size, rank=world.rank, world_size=world.world_size, seed=recipe.run.seed,
        shuffle_shards=recipe.data.shuffle_shards, threads=recipe.data.decode_threads,
    )  # fmt: skip
    train = batches("train", shuffle=True, drop_last=True, flip=recipe.data.flip)
    return train, batches("val", shuffle=False, drop_last=False)


def _leave_results(job: Job, model: Segmenter, manifest: Manifest, history: list[dict[str, Any]]) -> None:
    """Write history and bundle into the job's folder; config.json last, for it makes the bundle exist."""
    store = open_store(job.folder)
    store.write("history.json", json.dumps(history, indent=1).encode(), content_type="application/json")
    with tempfile.TemporaryDirectory() as temporary:
        save_bundle(Path(temporary), model, manifest.classes)
        for name in ("model.safetensors", "config.json"):
            store.write(f"bundle/{name}", (Path(temporary) / name).read_bytes())


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    # Gloo's threads outlive their process group, and now and then one meets the closing interpreter and aborts the process
    # (https://github.com/pytorch/pytorch/pull/179291). All is written by now: there is nothing to close.
    os._exit(code)
