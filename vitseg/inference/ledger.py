"""The ledger of a job: its frozen listing, and a row for every object of it, in a parquet file a chunk."""

import dataclasses
import io
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vitseg.errors import DataError, NotFoundError
from vitseg.inference.job import Job, mask_key
from vitseg.masks import class_fractions
from vitseg.storage import ObjectInfo, Store

ALREADY_DONE = "already done"
STATUSES = ("ok", "skipped", "failed")
NAMED_FAILURES = 20  # of a chunk and of the summary; the ledger has them all
_STAGES = b"vitseg.stages"  # in the metadata of a part: seconds by stage

_OBJECT = [("key", pa.string()), ("etag", pa.string()), ("bytes", pa.int64())]
LISTING = pa.schema([*_OBJECT, ("problem", pa.string()), ("made", pa.bool_())])
ROWS = pa.schema(
    [
        *_OBJECT,
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
    """One object of the frozen listing."""

    info: ObjectInfo
    problem: str | None = None
    """Why it can have no mask, whatever its content."""
    made: bool = True
    """Whether an object had the mask's key when the job was planned: it may be a mask that can be reused."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What became of one object. None where a value is not known."""

    key: str
    etag: str
    """Of the content that was read; as listed where nothing was read."""
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
    failures: tuple[tuple[str, str], ...] = ()
    """The first 20 `(key, error)`."""


@dataclass(frozen=True)
class Part:
    """The rows of a finished chunk, in the order of its listing, and how long its stages took, seconds."""

    rows: list[Row]
    stages: dict[str, float] = field(default_factory=dict)

    def counts(self, index: int, written: int = 0) -> ChunkCounts:
        """Count the rows by status."""
        ok, skipped, failed = (sum(row.status == status for row in self.rows) for status in STATUSES)
        failures = tuple((row.key, row.error or "") for row in self.rows if row.status == "failed")
        return ChunkCounts(
            index=index, ok=ok, skipped=skipped, failed=failed, written=written, failures=failures[:NAMED_FAILURES]
        )


def row_without_mask(info: ObjectInfo, status: str, reason: str) -> Row:
    """Return the row of an object that gets no mask."""
    error = " ".join(reason.split())[:500]  # one line
    return Row(key=info.key, etag=info.etag, bytes=info.size, status=status, error=error)


def mask_row(job: Job, info: ObjectInfo, pixels: np.ndarray, metadata: dict[str, str], numbers: np.ndarray) -> Row:
    """Return the row of a mask, or colored image, that was made or found: the same, so a kill leaves no trace in it.

    `metadata` are those in the mask's PNG; `numbers` are uint8 (K,), train id to id in the file.
    """
    own = metadata["job"] == job.id
    is_mask = pixels.ndim == 2
    return Row(
        key=info.key,
        etag=info.etag,
        bytes=info.size,
        status="ok" if own else "skipped",
        error=None if own else ALREADY_DONE,
        width=pixels.shape[1],
        height=pixels.shape[0],
        mask_key=mask_key(info.key),
        seconds=float(metadata["seconds"]) if own else None,
        mean_confidence=float(metadata["mean-confidence"]) if is_mask else None,
        class_fractions=class_fractions(pixels, numbers) if is_mask else None,
    )


def write_listing(dest: Store, key: str, objects: list[Listed]) -> None:
    """Freeze one chunk of the listing."""
    rows = [(item.info.key, item.info.etag, item.info.size, item.problem, item.made) for item in objects]
    dest.write(key, _parquet([dict(zip(LISTING.names, row, strict=True)) for row in rows], LISTING))


def read_listing(dest: Store, job: Job, index: int) -> list[Listed]:
    """Return the objects of a chunk; refuse a file that is not what was frozen."""
    table = _table(dest, job.listing_key(index), LISTING)
    if table.num_rows != job.size(index):
        where = dest.uri(job.listing_key(index))
        raise DataError(f"{where} has {table.num_rows} rows, not {job.size(index)}")
    return [
        Listed(ObjectInfo(row["key"], row["bytes"], row["etag"]), row["problem"], row["made"])
        for row in table.to_pylist()
    ]


def write_part(dest: Store, job: Job, index: int, part: Part) -> None:
    """Write the rows of a chunk: this finishes the chunk."""
    seconds = {name: round(value, 6) for name, value in part.stages.items()}
    schema = ROWS.with_metadata({_STAGES: json.dumps(seconds).encode()})
    dest.write(job.part_key(index), _parquet([dataclasses.asdict(row) for row in part.rows], schema))


def read_part(dest: Store, job: Job, index: int) -> Part | None:
    """Return the rows of a chunk, None where it is not finished; refuse a file that is not its rows."""
    try:
        table = _table(dest, job.part_key(index), ROWS)
    except NotFoundError:
        return None
    if table.num_rows != job.size(index):
        raise DataError(
            f"{dest.uri(job.part_key(index))} has {table.num_rows} rows for {job.size(index)} objects: "
            "delete it and run the same command again"
        )
    stages = json.loads((table.schema.metadata or {}).get(_STAGES, b"{}"))
    return Part([Row(**row) for row in table.to_pylist()], stages)


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
