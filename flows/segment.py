"""Flow: a bucket of photographs → masks, a ledger with a row for every object, a summary, and what to look at first."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.display.console import note, pluralize, progress
from flows.tasks import Runner
from flows.tasks.segment_chunks import default_runner, default_workers, run_chunks
from vitseg.images import MAX_PIXELS
from vitseg.inference.commit import Summary, commit_job
from vitseg.inference.dry_run import dry_run as count_work
from vitseg.inference.job import Ids, ModelRef, Options, Picture
from vitseg.inference.plan import another_source, plan_job
from vitseg.precision import FILE as PRECISION
from vitseg.precision import kept
from vitseg.registry import versions
from vitseg.storage import open_store


@flow(name="segment", flow_run_name="segment {source}")
def segment(
    source: str,
    dest: str,
    *,
    model: str,
    ids: Ids = "train",
    also: Sequence[Picture] = (),
    tile: bool = False,
    flip: bool = False,
    max_pixels: int = MAX_PIXELS,
    batch_size: int | None = None,
    chunk: int | None = None,
    runner: Runner | None = None,
    workers: int | None = None,
    max_failures: int | None = None,
    price_per_hour: float | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Write a mask for every photograph under an address; what is done is skipped, what can't be read is listed.

    Args:
        source: folder, `s3://` or other fsspec address of photographs.
        dest: folder or `s3://` address for masks, ledger and summary.
        model: `models:/NAME@alias`, `models:/NAME/VERSION` or a bundle folder; resolved once.
        ids: the class ids in the masks.
        also: more pictures.
        tile: slide the model over the full resolution instead of shrinking the image.
        flip: ask the model about the mirrored image, too: twice the time.
        max_pixels: larger images are refused.
        batch_size: images a forward pass; by default 2 on a processor, on a GPU 64 of 256×256 or as many pixels.
        chunk: images a task; by default so many that all workers have some, at most 256.
        runner: where tasks run; by default processes where there are GPUs and cores for them, else threads.
        workers: tasks at a time; by default as suits runner and machine.
        max_failures: stop once more objects than that have failed.
        price_per_hour: of the machines; tells what the job costs.
        dry_run: only say what would be done, and how long it would take.
    """
    start = time.monotonic()
    options = Options(ids=ids, also=tuple(also), tile=tile, flip=flip, max_pixels=max_pixels)
    version, folder = versions.open_model(model)
    reference = ModelRef(
        name=version.name, version=version.version, sha256=version.sha256, folder=str(folder.resolve())
    )
    asked: dict[str, Any] = {"model": reference, "options": options, "batch_size": batch_size}
    with progress("listing", unit="objects") as show:
        if dry_run:
            work = count_work(source, dest, **asked, price_per_hour=price_per_hour, progress=show)
            return {**asdict(work), "model": version.uri, "dry_run": True}
        runner = runner or default_runner()
        workers = workers or default_workers(runner)
        job = plan_job(source, dest, **asked, chunk_images=chunk, workers=workers, progress=show)
    if other := another_source(job):
        note(f"{dest} also has masks of {other}: of two photographs with one key, the mask of the last one stays")
    note(f"{pluralize(job.listed, 'object')} in {pluralize(job.chunks, 'chunk')}, with {version.uri}; job {job.id}")
    counts = run_chunks(job, runner, workers, max_failures)
    summary = commit_job(job, time.monotonic() - start, sum(part.written for part in counts), price_per_hour)
    if summary.ok and (chosen := kept(open_store(job.dest), job.file(PRECISION))):
        note(chosen.line())
    _tell(summary, version.uri)
    return {**asdict(summary), "model": version.uri}


def _tell(summary: Summary, model: str) -> None:
    """Show people how it went: here, and on the flow run's page."""
    rows = [{"status": name, "objects": getattr(summary, name)} for name in ("ok", "skipped", "failed")]
    about = f"{summary.listed} objects of {summary.source} with {model}"
    create_table_artifact(rows, key="segment", description=about)
    if summary.failures:
        create_table_artifact(summary.failures, key="segment-failures", description=f"the first failures; {about}")
    if summary.failed:
        note(
            f"{pluralize(summary.failed, 'object')} failed, each with its reason in the ledger beside {summary.summary}"
        )
    if summary.least_confident:
        note(f"look first at {summary.least_confident}")
        create_markdown_artifact(
            f"The images that the model is least sure of: `{summary.least_confident}`", key="segment-least-confident"
        )
    if summary.skipped == summary.listed:
        note(
            f"nothing to do: every object under {summary.source} is done, with this model and these options, or is no photograph"
        )
