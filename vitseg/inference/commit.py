"""Finish a job: check that every object has its row, add up, and draw the images that the model is least sure of."""

import heapq
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from vitseg.errors import DataError, NotFoundError
from vitseg.inference.contact_sheet import SHOWN, draw_sheet
from vitseg.inference.context import STAGES
from vitseg.inference.job import Job
from vitseg.inference.ledger import STATUSES, ChunkCounts, Row, read_part
from vitseg.storage import Store, open_store

_LISTED_FAILURES = 20  # in the summary; the ledger has them all
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
    failures: list[dict[str, str]]
    """The first 20 `{key, error}`."""
    least_confident: str | None
    """Address of the contact sheet of the 16 images that the model is least sure of; None where there is none."""
    summary: str
    """Address of summary.json."""

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


@dataclass(frozen=True)
class _Checked:
    """What the summary takes from one chunk."""

    counts: ChunkCounts
    stages: dict[str, float]
    failures: list[dict[str, str]]
    unsure: list[Row]


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
        parts = list(pool.map(lambda index: _check(dest, job, index), range(job.chunks)))
    missing = [index for index, part in enumerate(parts) if part is None]
    if missing:
        some = ", ".join(map(str, missing[:5])) + (" …" if len(missing) > 5 else "")
        raise DataError(
            f"job {job.id} is not complete: {len(missing)} of {job.chunks} chunks have no result ({some}); "
            "run the same command again to go on"
        )
    found = [part for part in parts if part is not None]
    ok, skipped, failed = (sum(getattr(part.counts, status) for part in found) for status in STATUSES)
    if ok + skipped + failed != job.listed:
        raise DataError(f"job {job.id}: {ok} ok + {skipped} skipped + {failed} failed are not the {job.listed} listed")
    summary = Summary(
        job=job.id,
        listed=job.listed,
        ok=ok,
        skipped=skipped,
        failed=failed,
        bytes=job.bytes,
        images_per_second=round((ok if written is None else written) / max(seconds, 1e-9), 3),
        seconds=round(seconds, 3),
        stage_seconds={name: round(sum(part.stages.get(name, 0) for part in found), 6) for name in STAGES},
        price=None if price_per_hour is None else round(seconds / 3600 * price_per_hour, 4),
        source=job.source,
        dest=job.dest,
        model={"name": job.model.name, "version": job.model.version, "sha256": job.model.sha256},
        options=job.options.to_json(),
        failures=[failure for part in found for failure in part.failures][:_LISTED_FAILURES],
        least_confident=draw_sheet(dest, job, _least_sure([row for part in found for row in part.unsure])),
        summary=dest.uri(job.file("summary.json")),
    )
    text = json.dumps(summary.to_json(), indent=2)
    dest.write(job.file("summary.json"), text.encode(), content_type="application/json")
    return summary


def _check(dest: Store, job: Job, index: int) -> _Checked | None:
    try:
        part = read_part(dest, job, index)
    except NotFoundError:
        return None
    failures = [{"key": row.key, "error": row.error or ""} for row in part.rows if row.status == "failed"]
    return _Checked(part.counts(index), part.stages, failures[:_LISTED_FAILURES], _least_sure(part.rows))


def _least_sure(rows: list[Row]) -> list[Row]:
    known = (row for row in rows if row.mean_confidence is not None)
    return heapq.nsmallest(SHOWN, known, key=lambda row: (row.mean_confidence, row.key))
