"""Flow: a bucket of photographs → masks, a ledger with a row for every object, and a summary."""

import time
from collections.abc import Sequence
from typing import Any

from prefect import flow, task, unmapped
from prefect.artifacts import create_table_artifact
from prefect.futures import as_completed
from prefect.tasks import exponential_backoff

from flows.choices import Ids, Picture
from flows.console import counted, note, progress
from flows.runners import make_runner, may_pass
from vitseg.inference.chunk import segment_chunk
from vitseg.inference.job import Job, ModelRef
from vitseg.inference.ledger import ChunkCounts, commit_job
from vitseg.inference.plan import dry_run as count_work
from vitseg.inference.plan import plan_job
from vitseg.registry import versions


@flow(name="segment", flow_run_name="segment {source}", task_runner=make_runner("thread", 1))
def segment(
    source: str,
    dest: str,
    model: str,
    ids: Ids = "train",
    also: Sequence[Picture] = (),
    tile: bool = False,
    batch_size: int = 8,
    chunk: int = 64,
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
        batch_size: images a forward pass.
        chunk: images a task.
        dry_run: only say what would be done.
    """
    start = time.monotonic()
    version, folder = versions.open_model(model)
    reference = ModelRef(
        name=version.name, version=version.version, sha256=version.sha256, folder=str(folder.resolve())
    )
    if dry_run:
        work = count_work(source, dest, model=reference, ids=ids, also=tuple(also), tile=tile)
        return {**work.to_json(), "model": version.uri, "dry_run": True}
    job = plan_job(
        source, dest, model=reference, ids=ids, also=tuple(also), tile=tile, chunk_images=chunk, batch_size=batch_size
    )
    note(f"{counted(job.listed, 'object')} in {counted(job.chunks, 'chunk')}, with {version.uri}; job {job.id}")
    counts = run_chunks(job)
    summary = commit_job(job, time.monotonic() - start, sum(part.written for part in counts))
    rows = [{"status": name, "objects": getattr(summary, name)} for name in ("ok", "skipped", "failed")]
    create_table_artifact(rows, key="segment", description=f"{summary.listed} objects of {source} with {version.uri}")
    for failure in summary.failures[:3]:
        note(f"failed: {failure['key']}: {failure['error']}")
    if summary.failed > 3:
        note(f"failed: {summary.failed - 3} more, each with its reason in the ledger beside {summary.summary}")
    if summary.skipped == summary.listed:
        note(f"nothing to do: every object under {source} is done, with this model and these options")
    return {**summary.to_json(), "model": version.uri}


def run_chunks(job: Job) -> list[ChunkCounts]:
    """Map the chunks over the flow's task runner, showing objects as chunks end."""
    futures = do_chunk.map(unmapped(job), range(job.chunks))
    counts: list[ChunkCounts] = []
    with progress("segmenting", job.listed, "objects") as show:
        for future in as_completed(futures):
            counts.append(future.result())
            show(sum(job.size(part.index) for part in counts), job.listed)
    return counts


@task(retries=2, retry_delay_seconds=exponential_backoff(backoff_factor=1), retry_jitter_factor=0.5,
      retry_condition_fn=may_pass, task_run_name="chunk-{index}")  # fmt: skip
def do_chunk(job: Job, index: int) -> ChunkCounts:
    """Segment one chunk of the frozen listing, unless its rows are there already."""
    return segment_chunk(job, index)
