"""Task: data, recipe and start → a job with a run on the tracking server."""

import json
from dataclasses import asdict, replace

from prefect import task

from flows.display.console import note
from vitseg.class_change import ClassChange, class_change, match_names
from vitseg.config import RecipeLayers
from vitseg.data.manifest import Manifest, read_manifest
from vitseg.errors import VitsegError
from vitseg.model.encoder_bundle import CONFIG
from vitseg.model.patches import nearest_size
from vitseg.registry import promotion, tracking, versions
from vitseg.registry.markdown import listed
from vitseg.registry.versions import Version
from vitseg.storage import open_store
from vitseg.training.batch_size import choose_batch
from vitseg.training.initial_weights import FILE
from vitseg.training.job import MASKED, SEGMENTATION, Job, forget_job, write_job
from vitseg.training.nodes import Nodes
from vitseg.training.plan import check, new_job, plan_job


@task
def plan_training(
    shards: str,
    layers: RecipeLayers,
    nodes: Nodes,
    *,
    name: str,
    resume: bool,
    init: str = "",
    max_minutes: float | None = None,
    kind: str = SEGMENTATION,
) -> Job:
    """Find or make a job; where it has a result, there is nothing to do.

    `name` is the registered model, or what the run of a pretraining is called; `kind` is one of
    `vitseg.training.objectives.OBJECTIVES`; the rest is as in `flows.train`.
    """
    manifest = read_manifest(shards)
    fresh, request, initial, notes = new_job(shards, manifest, layers, nodes.world_size, init=init, task=kind)
    if fresh.recipe != request.recipe:
        note(
            "this data set has pairs of images and no classes: model.target=rgb, and model.pixels=fixed to see brightness"
        )

    def is_delivered(job: Job) -> bool:
        if kind == MASKED:
            return open_store(job.encoder).stat(CONFIG) is not None
        return versions.is_version_of(name, job.result["model_uri"], job.run_id)

    def choose(job: Job) -> Job:
        if request.auto_batch:
            note("data.batch_size=auto: measuring which batch fits and fills the device")
            job = choose_batch(job, manifest, nodes, own_rate=request.own_rate)
        return job

    action, job = plan_job(
        fresh, choose=choose, resume=resume, max_minutes=max_minutes, run_exists=tracking.run_exists,
        is_delivered=is_delivered,
    )  # fmt: skip
    if action == "nothing":
        return job
    if job.chosen:
        note(", ".join(f"{key}={reason}" for key, reason in job.chosen.items()))
    if action != "deliver":
        check(job, manifest, nodes.world_size)
    if action == "start":
        if kind == SEGMENTATION and (champion := promotion.champion_of(name)):
            for line in changes_since(champion, manifest)[1]:
                note(line)
        for line in notes:
            note(line)
        job = replace(job, run_id=_start_run(job, name))
        if not resume:
            forget_job(job.folder)
        if initial:
            open_store(job.folder).write(FILE, initial.data)
    elif action == "deliver":
        note(f"trained already, in {job.folder}: only what follows is left")
    else:
        note(f"going on with an unfinished job in {job.folder}")
    write_job(job)
    return job


def changes_since(champion: Version, manifest: Manifest) -> tuple[ClassChange | None, list[str]]:
    """Return how a data set's classes differ from the champion's, and a line for each change that says what it means.

    Of a champion that can't be read, the change is None.
    """
    try:
        bundle = versions.load(champion.uri)
    except VitsegError as error:
        return None, [f"the champion can't be read, so these classes are not compared with its own: {error}"]
    before, after = ([label.name for label in classes] for classes in (bundle.classes, manifest.classes))
    change, known = class_change(before, after), f"the champion {champion.uri}"
    lines = []
    if change.added:
        lines.append(
            f"{known} does not know: {listed(change.added)}; they are learned and measured, but not compared with it"
        )
    if change.removed:
        lines.append(f"{known} also knows: {listed(change.removed)}; no mask of the new version will show them")
    if change.added and change.removed:
        lines.append("a class that got another name counts as a removed and an added one: to keep it, keep its name")
    places = zip(manifest.classes, match_names(after, before), strict=True)
    written = [label.name for label, place in places if place is not None and label != bundle.classes[place]]
    if written:
        lines.append(f"{known} has other ids or colors for: {listed(written)}; new masks have those of these shards")
    own_size = nearest_size(manifest.image_size, bundle.architecture.patch_size)
    if before and after and tuple(bundle.image_size) != own_size:
        sizes = [f"{width}×{height}" for height, width in (bundle.image_size, manifest.image_size)]
        lines.append(
            f"{known} sees images of {sizes[0]}, these are {sizes[1]}: each version is measured at its own size"
        )
    return change, lines


def _start_run(job: Job, name: str) -> str:
    """Start a run with the recipe as parameters `section.key`; return its id."""
    sections = job.recipe.to_json()
    params = {f"{section}.{key}": value for section, keys in sections.items() for key, value in keys.items()}
    params |= {f"{key}.chosen": reason for key, reason in job.chosen.items()}
    params |= {"init": job.init, "init.sha256": job.init_sha256} if job.init else {}
    params |= {f"init.origin.{key}": value for key, value in asdict(job.origin).items() if value}
    tags = {"vitseg.job": job.folder, "vitseg.shards": job.shards, "vitseg.fingerprint": job.fingerprint}
    tags |= {"vitseg.task": job.task} if job.task != SEGMENTATION else {}
    run_id = tracking.start_run(f"{name} {job.name}", params, tags)
    tracking.log_text(run_id, json.dumps(sections, indent=1), "recipe.json")
    return run_id
