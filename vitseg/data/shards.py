"""One shard of the plan → one tar.

A shard is done when its record lies at the destination, and the record is written after the tar. So a run that was
killed and is started again writes only what is missing. As equal input gives equal bytes, a shard may be written twice,
anywhere, at the same time.
"""

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from io import BufferedRandom
from typing import Any, BinaryIO

import numpy as np
from webdataset import TarWriter

from vitseg.data.findings import Findings, merge
from vitseg.data.manifest import ShardInfo, SkippedSource
from vitseg.data.plan import PlanOptions, ShardPlan
from vitseg.data.samples import make_sample
from vitseg.errors import DataError, EtagError, NotFoundError, SampleError, StoreFullError
from vitseg.json_input import malformed_as_data_error, parse_json, to_json_bytes
from vitseg.storage import Store, content_md5, open_store

RECORDS = "_vitseg/preprocess"


@dataclass(frozen=True)
class ShardRecord:
    """What became of one shard: `shard` is None where no source could be used; labeled pixels are by train id."""

    split: str
    index: int
    shard: ShardInfo | None
    pixels_per_class: tuple[int, ...]
    skipped: tuple[SkippedSource, ...]
    findings: Findings = field(default_factory=Findings)
    """What the labels hold that no class explains."""

    @property
    def samples(self) -> int:
        """Number of samples in the tar."""
        return self.shard.samples if self.shard else 0

    @staticmethod
    @malformed_as_data_error()
    def from_json(values: Any) -> "ShardRecord":
        """Read what `dataclasses.asdict` gave; DataError: a key is missing or has the wrong form."""
        return ShardRecord(
            str(values["split"]),
            int(values["index"]),
            ShardInfo.from_json(values["shard"]) if values["shard"] else None,
            tuple(int(value) for value in values["pixels_per_class"]),
            tuple(SkippedSource(str(row["source"]), str(row["reason"])) for row in values["skipped"]),
            Findings.from_json(values["findings"]),
        )


def write_shard(shard: ShardPlan, options: PlanOptions, dest: str) -> ShardRecord:
    """Write one tar and its record to `dest`, unless both are there.

    Sources that can't be used become rows of the record. Memory: some images; the tar is built in a temporary file.

    Raises:
        DataError: a source changed since it was planned.
        EtagError: the plan took an etag for the MD5 of a source, and it is not: plan without trust in etags.
        AccessError, StorageError: a store refused or failed; the shard is not done and can be tried again.
        StoreFullError: there is no room for the tar, here or there.
    """
    if done := done_shard(shard, options, dest):
        return done
    store, info = open_store(dest), None
    with _temporary_file() as file:
        pixels, skipped, findings = _pack(shard, options, file)
        if samples := len(shard.samples) - len(skipped):
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            info = ShardInfo(f"{shard.split}-{shard.index:05d}-{sha256[:12]}.tar", sha256, file.tell(), samples)
            store.write(info.name, file, content_type="application/x-tar")
    record = ShardRecord(shard.split, shard.index, info, tuple(pixels.tolist()), tuple(skipped), findings)
    store.write(_record_key(shard, options), to_json_bytes(asdict(record)), content_type="application/json")
    return record


@contextlib.contextmanager
def _temporary_file() -> Iterator[BufferedRandom]:
    # Sources and stores raise errors of their own: any OSError here is about this file, closing included.
    try:
        with tempfile.TemporaryFile(prefix="vitseg-shard-") as file:
            yield file
    except OSError as error:
        place, why = tempfile.tempdir or "TMPDIR", error.strerror or error
        raise StoreFullError(f"{place} has no room for a shard ({why}): set TMPDIR to a disk that has") from error


def _pack(shard: ShardPlan, options: PlanOptions, file: BinaryIO) -> tuple[np.ndarray, list[SkippedSource], Findings]:
    """Write the tar of a shard; return the labeled pixels of each class, the sources that were left out, and findings."""
    source = open_store(options.source)
    pixels = np.zeros(len(options.classes), np.int64)
    skipped, findings = [], []
    # Fixed owner, mode and time: the bytes depend on the content alone.
    with TarWriter(file, encoder=False, mtime=0, mode=0o444, user="vitseg", group="vitseg") as tar:
        contents = _read_sources(source, shard)
        for planned in shard.samples:
            image, label = next(contents), next(contents) if planned.label else None
            try:
                members, counts, found = make_sample(planned, shard.split, options, image, label)
            except SampleError as error:
                skipped.append(SkippedSource(planned.image, str(error)))
                continue
            tar.write({"__key__": planned.key, **members})
            pixels += counts
            findings.append(found)
    return pixels, skipped, merge(findings)


def done_shard(shard: ShardPlan, options: PlanOptions, dest: str) -> ShardRecord | None:
    """Return the record of a shard if it is done: record and tar are there, and the tar has its size."""
    store = open_store(dest)
    try:
        record = ShardRecord.from_json(parse_json(store.read(_record_key(shard, options))))
    except (NotFoundError, DataError):  # a damaged record counts as none: the shard is written again
        return None
    same = (record.split, record.index) == (shard.split, shard.index)
    if not same or record.samples + len(record.skipped) != len(shard.samples):
        return None
    there = store.stat(record.shard.name) if record.shard else None
    return record if not record.shard or (there and there.size == record.shard.bytes) else None


def _record_key(shard: ShardPlan, options: PlanOptions) -> str:
    return f"{RECORDS}/{options.fingerprint[:16]}/{shard.split}-{shard.index:05d}.json"


def _read_sources(store: Store, shard: ShardPlan) -> Iterator[bytes]:
    """Yield photo and label of each sample; check that they are what was planned, as the fingerprint claims."""
    files: list[tuple[str, str | None, str | None]] = []
    for sample in shard.samples:
        files.append((sample.image, sample.image_md5, sample.image_tag))
        if sample.label:
            files.append((sample.label, sample.label_md5, sample.label_tag))
    contents = store.read_many(key for key, _, _ in files)
    for key, md5, tag in files:
        try:
            data, now = next(contents)
        except NotFoundError as error:
            raise DataError(f"{store.uri(key)} vanished since it was planned: run `vitseg preprocess` again") from error
        if now != tag and content_md5(data) != md5:
            if now == md5:
                raise EtagError(f"{store.uri(key)} is planned by its etag, which is not the MD5 of its content")
            raise DataError(f"{store.uri(key)} changed since it was planned: run `vitseg preprocess` again")
        yield data
