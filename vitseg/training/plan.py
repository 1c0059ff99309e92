"""What a command has to do for a training: start it, go on with it, or nothing, for it is finished."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, NamedTuple

from vitseg.architecture import Architecture
from vitseg.config import RecipeLayers
from vitseg.data.manifest import Manifest
from vitseg.errors import DataError, UsageError
from vitseg.model.patches import nearest_size
from vitseg.recipe import RecipeRequest
from vitseg.training.initial_weights import Initial, fit_initial
from vitseg.training.job import MASKED, SEGMENTATION, Job, job_folder, read_job
from vitseg.training.objectives import OBJECTIVES
from vitseg.training.start import Start, started_request
from vitseg.training.start_address import read_start

Action = Literal["start", "resume", "deliver", "nothing"]
"""`deliver`: it is trained, and what follows is left. `nothing`: that is done, too."""


class NewJob(NamedTuple):
    """A job as it is before anything was done, the request that it answers, the weights it starts from, and what to tell."""

    job: Job
    request: RecipeRequest
    initial: Initial | None
    notes: tuple[str, ...]


def new_job(
    shards: str,
    manifest: Manifest,
    layers: RecipeLayers,
    world_size: int,
    *,
    init: str = "",
    task: str = SEGMENTATION,
) -> NewJob:
    """Return the job of this data, recipe and start (the address of its weights, "": from scratch).

    Raises:
        DataError, UsageError: see `RecipeLayers.request`, `Objective.fit_recipe`, `check`, `read_start` and `fit_initial`.
        NotFoundError, StorageError, AccessError, RegistryError: see `read_start`.
    """
    start = read_start(init) if init else None
    if start and task == MASKED:
        start = start.encoder_only()
    asked = started_request(layers, start, task, manifest.targets == "images")
    request = _fitted(asked, manifest, task)
    recipe = request.recipe
    fresh = tried = Job("", shards, manifest.fingerprint, recipe, task=task)
    if request.auto_batch or start:
        fresh = tried = replace(fresh, asked=_asked_digest(layers, manifest, task) or request.digest())
    if request.auto_batch:
        tried = fresh.choose("data.batch_size", world_size * recipe.optimizer.accumulate, "the smallest that there is")
    check(tried, manifest, world_size)
    if recipe.model.encoder != "trained" and not init:
        raise UsageError(
            f"model.encoder = {recipe.model.encoder}: without --init, or a champion to start a retraining from, its weights "
            "are random, and random they would stay"
        )
    initial, size = None, nearest_size(manifest.image_size, recipe.model.patch_size)
    notes = size_notes(manifest.image_size, size, recipe.model.patch_size)
    if start:
        if manifest.targets == "images" and start.encoder["pixels"] != recipe.model.pixels:
            raise UsageError(
                f"--init {start.address}: its encoder sees each image relative to its own brightness, and pairs of images need "
                "one that sees brightness: start from published weights, or from a training with model.pixels=fixed"
            )
        initial = fit_initial(start, recipe.model, size, manifest.classes)
        fresh = replace(fresh, init=start.address, init_sha256=initial.sha256, origin=start.origin)
        taken = initial.taken if task == SEGMENTATION else "its encoder"
        told = start_notes(start, layers, recipe.model if task == SEGMENTATION else None)
        notes = (f"starting from {start.address}: {taken}", *told, *notes)
    folder = job_folder(shards, manifest.fingerprint, request, start.sha256 if start else "", task)
    return NewJob(replace(fresh, folder=folder), asked, initial, notes)


def start_notes(start: Start, layers: RecipeLayers, arch: Architecture | None) -> tuple[str, ...]:
    """Return a line for each thing that a user should know of a start; a pretraining has no `arch` of a decoder."""
    what = "recipe" if "run" in start.recipe and arch else "learning rates"
    notes = [
        f"the encoder's shape is that of the start, the {what} of transfer.toml over the preset; your own keys win"
    ]
    before = layers.preset["model"].get("fine_patch")
    if arch and before and before != arch.fine_patch and "fine_patch" not in layers.own.get("model", {}):
        notes[0] += f"; model.fine_patch={arch.fine_patch}, for {before} does not divide patches of {arch.patch_size}"
    if start.assumptions:
        notes.append(f"nothing beside the weights says it, so it is assumed: {start.assumptions}")
    if start.origin.family and not start.origin.is_permissive:
        notes.append(f"{start.origin.family}: {start.origin.license_words()}")
    return tuple(notes)


def size_notes(image_size: tuple[int, int], size: tuple[int, int], patch_size: int) -> tuple[str, ...]:
    """Return a line if the network takes another size (H, W) than the images have."""
    if size == tuple(image_size):
        return ()
    before, after = (f"{width}×{height}" for height, width in (image_size, size))
    return (
        f"the network takes {after}, a multiple of patch size {patch_size}: photographs of {before} are resized to it",
    )


def _fitted(request: RecipeRequest, manifest: Manifest, task: str) -> RecipeRequest:
    return replace(request, recipe=OBJECTIVES[task].fit_recipe(request.recipe, manifest))


def _asked_digest(layers: RecipeLayers, manifest: Manifest, task: str) -> str:
    """Return the digest of a request without its start, so that a retraining finds its version whatever that started from.

    "": what the user has set is no recipe without the encoder of the start.
    """
    try:
        return _fitted(layers.request(), manifest, task).digest()
    except UsageError:
        return ""


def recipe_digest(layers: RecipeLayers, manifest: Manifest, init: str) -> str:
    """Return the digest by which a retraining finds the version of its request.

    Raises:
        UsageError: it is no recipe, not even with the encoder of the start.
    """
    if digest := _asked_digest(layers, manifest, SEGMENTATION):
        return digest
    start = read_start(init) if init else None
    return _fitted(started_request(layers, start), manifest, SEGMENTATION).digest()


def plan_job(
    fresh: Job,
    *,
    choose: Callable[[Job], Job] = lambda job: job,
    resume: bool,
    max_minutes: float | None,
    run_exists: Callable[[str], bool],
    is_delivered: Callable[[Job], bool],
) -> tuple[Action, Job]:
    """Decide what is left to do for a job of `new_job`, and return it as it is now.

    `resume` goes on with what is in its folder, else it starts over. `choose` fills in what its request leaves to the
    device; a job that is there keeps what was chosen for it. `run_exists` returns whether the tracking server has a run,
    `is_delivered` whether the result of a finished job still exists.
    """
    found = read_job(fresh.folder) if resume else None
    job = replace(found, recipe=fresh.recipe).choose_as(found) if found else choose(fresh)
    trained = bool(job.result) and not job.gets_more_time(max_minutes)
    job = replace(job, max_minutes=max_minutes)
    if trained and is_delivered(job):
        return "nothing", job
    action: Action = "start"
    if job.run_id and run_exists(job.run_id):
        action = "deliver" if trained else "resume"
    if action == "start":  # weights that are fitted anew may differ in their last bits
        job = replace(job, init_sha256=fresh.init_sha256)
    return action, replace(job, result={})


def check(job: Job, manifest: Manifest, world_size: int) -> None:
    """Refuse what can't be trained.

    Raises:
        DataError: the shards changed under the job, or a split is missing.
        UsageError: the batch is too large, or can't be shared out evenly.
    """
    batch_size, accumulate = job.recipe.data.batch_size, job.recipe.optimizer.accumulate
    if manifest.fingerprint != job.fingerprint:
        raise DataError(f"{job.shards} changed since the job was planned: start `vitseg train` again")
    for split in ("train", "val"):
        if split not in manifest.splits or not manifest.splits[split].samples:
            raise DataError(f"{job.shards} has no samples in split {split!r}: training needs both train and val")
    samples, share = manifest.splits["train"].samples, world_size * accumulate
    chosen = "data.batch_size" in job.chosen
    if samples < batch_size:
        advice = "take fewer ranks or parts" if chosen else "--set data.batch_size=… lowers it"
        raise UsageError(f"data.batch_size = {batch_size}, but there are only {samples} training samples: {advice}")
    if batch_size % share:
        advice = f"make it a multiple of {share}"
        if chosen:
            advice = "go on with as many ranks as this job had, or choose another batch with --no-resume"
        raise UsageError(
            f"data.batch_size = {batch_size} can't be shared by {world_size} ranks × {accumulate} parts: {advice}"
        )
