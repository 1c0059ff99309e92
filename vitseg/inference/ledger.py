"""The ledger of a job: a row for every object, in a parquet file a chunk, and the summary that closes it."""

import dataclasses
import io
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vitseg.errors import DataError, NotFoundError
from vitseg.inference.job import Job
from vitseg.storage import ObjectInfo, Store, open_store

STATUSES = ("ok", "skipped", "failed")
_LISTED_FAILURES = 20  # in the summary; the ledger has them all
_THREADS = 8

LISTING = pa.schema([("key", pa.string()), ("etag", pa.string()), ("bytes", pa.int64()), ("problem", pa.string())])
ROWS = pa.schema(
    [
        ("key", pa.string()),
        ("etag", pa.string()),
        ("bytes", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("mask_key", pa.string()),
        ("seconds", pa.float64()),
        ("mean_confidence", pa.float64()),
        ("class_fractions", pa.list_(pa.float32())),
    ]
)


@dataclass(frozen=True)
class Listed:
    """One object of the frozen listing; `problem` says why it can have no mask, whatever it holds."""

    info: ObjectInfo
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """What became of one object. None where it is not known."""

    key: str
    etag: str
    bytes: int
    """Size of the object."""
    status: str
    """`ok`: this job made the mask; `skipped`: there was nothing to do; `failed`: bad data, see `error`."""
    width: int | None = None
    """Of the image as people see it, pixels; the mask is as large."""
    height: int | None = None
    error: str | None = None
    """Why it was skipped or failed, one line."""
    mask_key: str | None = None
    """Relative to DEST."""
    seconds: float | None = None
    """Work on this image, from reading it to its class ids."""
    mean_confidence: float | None = None
    """Mean probability of the chosen class, 0–1."""
    class_fractions: tuple[float, ...] | None = None
    """Share of pixels of each class, in train id order."""


@dataclass(frozen=True, kw_only=True)
class ChunkCounts:
    """What became of a chunk."""

    index: int
    ok: int
    skipped: int
    failed: int
    written: int
    """Masks made by this very call; 0 where the chunk was finished before."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A finished job, as in its summary.json."""

    job: str
    listed: int
    ok: int
    skipped: int
    failed: int
    images_per_second: float
    seconds: float
    source: str
    dest: str
    model: dict[str, str]
    options: dict[str, Any]
    failures: list[dict[str, str]]
    """The first 20 `{key, error}`."""
    summary: str
    """Address of summary.json."""

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return dataclasses.asdict(self)


def write_listing(dest: Store, key: str, objects: list[Listed]) -> None:
    """Freeze one chunk of the listing."""
    rows = [
        {"key": item.info.key, "etag": item.info.etag, "bytes": item.info.size, "problem": item.problem}
        for item in objects
    ]
    dest.write(key, _parquet(rows, LISTING))


def read_listing(dest: Store, job: Job, index: int) -> list[Listed]:
    """Return the objects of a chunk.

    Raises:
        NotFoundError: there is no such chunk.
        DataError: the file is not what was frozen.
    """
    table = _table(dest, job.listing_key(index), LISTING)
    if table.num_rows != job.size(index):
        where = dest.uri(job.listing_key(index))
        raise DataError(f"{where} has {table.num_rows} rows, not {job.size(index)}")
    return [Listed(ObjectInfo(row["key"], row["bytes"], row["etag"]), row["problem"]) for row in table.to_pylist()]


def write_part(dest: Store, job: Job, index: int, rows: Iterable[Row]) -> None:
    """Write the rows of a chunk: this makes the chunk done."""
    dest.write(job.part_key(index), _parquet([dataclasses.asdict(row) for row in rows], ROWS))


def read_statuses(dest: Store, job: Job, index: int) -> list[str]:
    """Return the status of each row of a chunk that is done.

    Raises:
        NotFoundError: the chunk is not done.
        DataError: the file is not the rows of this chunk.
    """
    return [row["status"] for row in _read_part(dest, job, index)]


def count_rows(index: int, statuses: list[str], written: int) -> ChunkCounts:
    """Count the rows of a chunk by status."""
    ok, skipped, failed = (statuses.count(status) for status in STATUSES)
    return ChunkCounts(index=index, ok=ok, skipped=skipped, failed=failed, written=written)


def commit_job(job: Job, seconds: float, written: int | None = None) -> Summary:
    """Check that every listed object has its row, and write summary.json: this makes the job done.

    Args:
        job: the planned job, all of whose chunks have been segmented.
        seconds: how long that took, by the clock.
        written: masks made in that time (the sum over `ChunkCounts.written`), for the rate; by default all
            `ok`, which is too many where the job was interrupted and resumed.

    Raises:
        DataError: chunks are missing, or rows don't add up.
    """
    dest = open_store(job.dest)
    with ThreadPoolExecutor(_THREADS) as pool:
        parts = list(pool.map(lambda index: _check_part(dest, job, index), range(job.chunks)))
    missing = [index for index, part in enumerate(parts) if part is None]
    if missing:
        some = ", ".join(map(str, missing[:5])) + (" …" if len(missing) > 5 else "")
        raise DataError(
            f"job {job.id} is not complete: {len(missing)} of {job.chunks} chunks have no result ({some}); "
            "run the same command again to go on"
        )
    found = [part for part in parts if part is not None]
    ok, skipped, failed = (sum(getattr(counts, status) for counts, _ in found) for status in STATUSES)
    if ok + skipped + failed != job.listed:
        raise DataError(f"job {job.id}: {ok} ok + {skipped} skipped + {failed} failed are not the {job.listed} listed")
    summary = Summary(
        job=job.id,
        listed=job.listed,
        ok=ok,
        skipped=skipped,
        failed=failed,
        images_per_second=round((ok if written is None else written) / max(seconds, 1e-9), 3),
        seconds=round(seconds, 3),
        source=job.source,
        dest=job.dest,
        model={"name": job.model.name, "version": job.model.version, "sha256": job.model.sha256},
        options=job.options.to_json(),
        failures=[failure for _, failures in found for failure in failures][:_LISTED_FAILURES],
        summary=dest.uri(job.file("summary.json")),
    )
    text = json.dumps(summary.to_json(), indent=2)
    dest.write(job.file("summary.json"), text.encode(), content_type="application/json")
    return summary


def _check_part(dest: Store, job: Job, index: int) -> tuple[ChunkCounts, list[dict[str, str]]] | None:
    try:
        rows = _read_part(dest, job, index)
    except NotFoundError:
        return None
    counts = count_rows(index, [row["status"] for row in rows], written=0)
    failures = [{"key": row["key"], "error": row["error"]} for row in rows if row["status"] == "failed"]
    return counts, failures[:_LISTED_FAILURES]


def _read_part(dest: Store, job: Job, index: int) -> list[dict[str, Any]]:
    rows = _table(dest, job.part_key(index), ROWS).select(["key", "status", "error"]).to_pylist()
    if len(rows) != job.size(index):
        raise DataError(
            f"{dest.uri(job.part_key(index))} has {len(rows)} rows for {job.size(index)} objects: "
            "delete it and run the same command again"
        )
    return rows


def _parquet(rows: list[dict[str, Any]], schema: pa.Schema) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), file)
    return file.getvalue()


def _table(dest: Store, key: str, schema: pa.Schema) -> pa.Table:
    data = dest.read(key)
    try:
        table = pq.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{dest.uri(key)} can't be read as parquet: {error}") from error
    if not table.schema.equals(schema):
        raise DataError(f"{dest.uri(key)} has other columns than this version of vitseg writes")
    return table
