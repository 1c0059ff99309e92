"""What one rank runs: `python -m vitseg.training.worker JOB_FOLDER`, started by `torch.distributed.run`."""

import functools
import json
import logging
import os
import sys

from vitseg import dist
from vitseg.data.features import Features
from vitseg.data.loader import Batches
from vitseg.data.manifest import Manifest, read_manifest
from vitseg.errors import UsageError, VitsegError
from vitseg.git_commit import code_commit
from vitseg.precision import time_both
from vitseg.recipe import Recipe
from vitseg.storage import open_store
from vitseg.training.features import kept_features
from vitseg.training.job import HISTORY, Job, read_job
from vitseg.training.logger import TrackingLogger, TrainingLogger
from vitseg.training.loop import Trainer
from vitseg.training.objectives import objective_for
from vitseg.training.plan import check
from vitseg.training.precision import job_precision, make_deterministic, training_pass
from vitseg.training.rank_reports import describe_error, emit
from vitseg.training.throughput import measure_throughput
from vitseg.training.watchdog import FIRST_MINUTES, watched

PANEL_IMAGES = 6


def main(job_folder: str) -> int:
    """Train this rank's share of a job; return the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    recipe = None
    try:
        recipe = find_job(job_folder).recipe
        # The watchdog, which can say who hung, goes first.
        train_rank(job_folder, dist.start(recipe.run.hang_minutes + FIRST_MINUTES + 1))
    except Exception as error:  # noqa: BLE001 - reported with its traceback, as what ended this rank
        emit("error", **describe_error(error, int(os.environ.get("RANK", "0")), recipe))
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
    """Train this rank's share of a job, and leave history and model in the job's folder."""
    job = find_job(job_folder)
    recipe = job.recipe
    if recipe.run.deterministic:
        make_deterministic()
    manifest = read_manifest(job.shards)
    check(job, manifest, world.world_size)
    logger = TrainingLogger()
    try:
        with watched(recipe.run.hang_minutes) as alive:
            objective = objective_for(job, manifest, world.device)
            precision = job_precision(job, world, lambda: time_both(training_pass(objective)))
            objective.compute_in(precision.name)
            if recipe.run.compile:
                objective.model.compile()
            features = kept_features(job, objective, manifest, world, alive)
            data, validation = batches_of(job.shards, manifest, recipe, world, features)
            throughput = measure_throughput(objective.flops_per_image(), precision.name, world)
            if world.rank == 0:
                shown = Batches(job.shards, manifest, "val", batch_size=PANEL_IMAGES, shuffle=False, drop_last=False)
                draw = functools.partial(objective.draw_panels, batch=next(iter(shown.epoch(0))))
                logger = TrackingLogger(job.run_id, job.folder, draw, throughput, precision)
            trainer = Trainer(
                objective, world, data, validation, open_store(job.checkpoints), logger, alive,
                max_minutes=job.max_minutes, commit=code_commit(),
            )  # fmt: skip
            history = trainer.run()
        trainer.select_weights()
        if world.rank == 0:
            text = json.dumps(history, indent=1).encode()
            open_store(job.folder).write(HISTORY, text, content_type="application/json")
            objective.export(job, history)
    finally:
        logger.close()


def batches_of(
    shards: str, manifest: Manifest, recipe: Recipe, world: dist.World, features: Features | None = None
) -> tuple[Batches, Batches]:
    """Return this rank's training and validation batches, with the features where they are kept."""
    batches = functools.partial(
        Batches, shards, manifest,
        batch_size=recipe.data.batch_size, rank=world.rank, world_size=world.world_size, seed=recipe.run.seed,
        shuffle_shards=recipe.data.shuffle_shards, threads=recipe.data.decode_threads,
        pin_memory=world.device.type == "cuda", features=features,
    )  # fmt: skip
    train = batches("train", shuffle=True, drop_last=True, flip=recipe.data.flip)
    return train, batches("val", shuffle=False, drop_last=False)


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    # Gloo's threads outlive their process group, and now and then one meets the closing interpreter and aborts the process
    # (https://github.com/pytorch/pytorch/pull/179291). All is written by now: there is nothing to close.
    os._exit(code)
