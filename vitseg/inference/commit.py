"""Finish a job: check that every object has its row, add up, and draw the images that the model is least sure of."""

import heapq
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

from vitseg.errors import DataError
from vitseg.inference.contact_sheet import SHOWN, draw_sheet
from vitseg.inference.context import STAGES
from vitseg.inference.job import Job
from vitseg.inference.ledger import NAMED_FAILURES, STATUSES, ChunkCounts, Row, read_part
from vitseg.precision import FILE as PRECISION
from vitseg.precision import kept
from vitseg.storage import Store, open_store

_THREADS = 8


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A finished job, as in its summary.json."""

    job: str
    listed: int
    ok: int
    skipped: int
    failed: int
    bytes: int
    """Size of all objects that were listed."""
    images_per_second: float
    """Masks made, by the clock."""
    seconds: float
    stage_seconds: dict[str, float]
    """Work by stage, over all threads and workers; of a killed attempt, that of its finished chunks."""
    price: float | None
    """Of `seconds`, at the given price an hour."""
    source: str
    dest: str
    model: dict[str, str]
    options: dict[str, Any]
    precision: str | None
    """What masks of this job are computed in; None: all of its chunks were done before there was a choice."""
    failures: list[dict[str, str]]
    """The first 20 `{key, error}`."""
    least_confident: str | None
    """Address of the contact sheet of the 16 images that the model is least sure of; None where there is none."""
    summary: str
    """Address of summary.json."""


def commit_job(job: Job, seconds: float, written: int | None = None, price_per_hour: float | None = None) -> Summary:
    """Check that every listed object has its row, and write summary.json: this finishes the job.

    Args:
        job: the planned job, all of whose chunks have been segmented.
        seconds: how long that took, by the clock.
        written: masks made in that time (the sum over `ChunkCounts.written`), for the rate; by default all
            `ok`, which is too many where the job was interrupted and resumed.
        price_per_hour: of all machines of the job together, in any currency.

    Raises:
        DataError: chunks are missing, or rows don't add up.
    """
    dest = open_store(job.dest)
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(lambda index: _check(dest, job, index), range(job.chunks)))
    missing = [index for index, part in enumerate(found) if part is None]
    if missing:
        some = ", ".join(map(str, missing[:5])) + (" …" if len(missing) > 5 else "")
        raise DataError(
            f"job {job.id} is not complete: {len(missing)} of {job.chunks} chunks have no result ({some}); "
            "run the same command again to go on"
        )
    counts, stages, unsure = zip(*(part for part in found if part), strict=True)
    ok, skipped, failed = (sum(getattr(part, status) for part in counts) for status in STATUSES)
    if ok + skipped + failed != job.listed:
        raise DataError(f"job {job.id}: {ok} ok + {skipped} skipped + {failed} failed are not the {job.listed} listed")
    precision = kept(dest, job.file(PRECISION))
    summary = Summary(
        job=job.id,
        listed=job.listed,
        ok=ok,
        skipped=skipped,
        failed=failed,
        bytes=job.bytes,
        images_per_second=round((ok if written is None else written) / max(seconds, 1e-9), 3),
        seconds=round(seconds, 3),
        stage_seconds={name: round(sum(part.get(name, 0) for part in stages), 6) for name in STAGES},
        price=None if price_per_hour is None else round(seconds / 3600 * price_per_hour, 4),
        source=job.source,
        dest=job.dest,
        model={"name": job.model.name, "version": job.model.version, "sha256": job.model.sha256},
        options=job.options.to_json(),
        precision=precision.name if precision else None,
        failures=[{"key": key, "error": error} for part in counts for key, error in part.failures][:NAMED_FAILURES],
        least_confident=draw_sheet(dest, job, _least_sure(chain.from_iterable(unsure))),
        summary=dest.uri(job.file("summary.json")),
    )
    text = json.dumps(asdict(summary), indent=2)
    dest.write(job.file("summary.json"), text.encode(), content_type="application/json")
    return summary


def _check(dest: Store, job: Job, index: int) -> tuple[ChunkCounts, dict[str, float], list[Row]] | None:
    """Return what the summary takes from one chunk: counts, seconds by stage, and the rows that it is least sure of."""
    part = read_part(dest, job, index)
    return None if part is None else (part.counts(index), part.stages, _least_sure(part.rows))


def _least_sure(rows: Iterable[Row]) -> list[Row]:
    known = (row for row in rows if row.mean_confidence is not None)
    return heapq.nsmallest(SHOWN, known, key=lambda row: (row.mean_confidence, row.key))
