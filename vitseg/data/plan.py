"""The plan of a data set: which source becomes which sample of which shard.

It is made before any image is opened, and is a pure function of the source's content and the options. Its
fingerprint names the data set: equal content gives equal fingerprints, in a folder and in a bucket.

The plan lies in a temporary file, from which each shard is read when it is its turn: a source may hold millions.
"""

import bisect
import hashlib
import json
import operator
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from vitseg.bounded_map import bounded_map
from vitseg.data.layouts import choose_layout, nothing_found
from vitseg.data.manifest import SkippedSource
from vitseg.data.sources import MAX_SOURCE_BYTES, PHOTOS, Sample, find_samples, read_classes
from vitseg.data.temporary_database import TemporaryDatabase, on_disk, packed, unpacked
from vitseg.errors import StorageError, UsageError
from vitseg.labels import Label, train_classes
from vitseg.storage import LocalStore, ObjectInfo, Store, open_store

FORMAT = 4
"""Part of the fingerprint: raise it whenever the same source and options give other tars or rows.

4: labels are read by their content (`label_image`), and what no class explains is counted.
"""
MAX_SIDE = 8192
"""Longest side of prepared images, pixels."""
_HASH_THREADS = 8
_CHECKED = 4  # samples whose etags are checked, spread over the source


@dataclass(frozen=True)
class PlannedSample:
    """One sample to make: keys relative to the source's root, and the MD5 of what they held when planned.

    `label` and `label_md5` are None where photo and label are halves of one image, or there is no label. The tags are those
    of files in a folder: while a file keeps its tag, it is not hashed again. Another copy of the source has other tags.
    """

    key: str
    image: str
    image_md5: str
    label: str | None
    label_md5: str | None
    image_tag: str | None = field(default=None, compare=False)
    label_tag: str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class ShardPlan:
    """The samples of the `index`-th shard of a split, in their order."""

    split: str
    index: int
    samples: tuple[PlannedSample, ...]


class PlannedShards:
    """All shards of a plan, split by split; they lie on disk, and each is read on demand."""

    def __init__(self, table: TemporaryDatabase, shard_samples: int) -> None:
        self._table = table
        self._splits: list[tuple[str, int, int, int]] = []  # name, samples before it, its samples, its shards
        self._starts: list[int] = []  # number of shards before each split
        self.samples = self._count = 0
        for split, samples in table.execute("SELECT split, count(*) FROM sample GROUP BY split ORDER BY split"):
            shards = -(-samples // shard_samples)
            self._splits.append((split, self.samples, samples, shards))
            self._starts.append(self._count)
            self.samples += samples
            self._count += shards

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[ShardPlan]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> ShardPlan:
        number = range(len(self))[number]
        place = bisect.bisect_right(self._starts, number) - 1
        split, before, samples, shards = self._splits[place]
        index = number - self._starts[place]
        edges = [before + samples * edge // shards for edge in (index, index + 1)]
        rows = self._table.execute("SELECT * FROM sample WHERE rowid > ? AND rowid <= ? ORDER BY rowid", edges)
        return ShardPlan(split, index, tuple(PlannedSample(*columns) for _, *columns in map(_texts, rows)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PlannedShards):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    def close(self) -> None:
        """Delete the temporary file: no shard can be read any more."""
        self._table.close()


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What the work on every shard needs to know; `image_size` is (height, width) in pixels."""

    fingerprint: str
    source: str
    layout: str
    image_size: tuple[int, int]
    labels: tuple[Label, ...]

    @property
    def classes(self) -> tuple[Label, ...]:
        """The classes a model learns from this data, in order of train ids; none of image pairs, or of photos alone."""
        return train_classes(self.labels) if self.labels else ()

    @property
    def targets(self) -> str:
        """What the samples' PNGs hold: see `Manifest.targets`."""
        return {"images": "images", PHOTOS: "none"}.get(self.layout, "labels")


@dataclass(frozen=True)
class Plan:
    """All shards of a data set, and the sources that can't become samples.

    A plan stays in the process that made it: workers get `options` and one of `shards` at a time.
    """

    options: PlanOptions
    shards: PlannedShards
    skipped: tuple[SkippedSource, ...]
    notes: tuple[str, ...] = ()
    """What people should know of how the names of the source were understood, a line each."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the options and the content of every planned source."""
        return self.options.fingerprint

    @property
    def sources(self) -> int:
        """Number of sources: in the end, samples and skipped rows add up to it."""
        return self.shards.samples + len(self.skipped)

    def close(self) -> None:
        """Delete the temporary file: no shard can be read any more."""
        self.shards.close()


def make_plan(
    source: str,
    *,
    layout: str = "auto",
    size: tuple[int, int] = (256, 256),
    shard_samples: int = 256,
    progress: Callable[[int, int], None] | None = None,
    trust_etags: bool = True,
) -> Plan:
    """List a source, pair photos with labels, hash both, and cut the samples into shards.

    In a bucket most etags are the MD5 of the content, which need not be read then; under a KMS or customer's key, and in
    some stores, they are not, and no listing says so. So some contents are compared here; in all others `write_shard`
    finds the difference.

    Args:
        source: folder, `s3://` prefix or other fsspec URL.
        layout: one of `LAYOUTS`, or `auto`.
        size: (height, width) that images will have, pixels.
        shard_samples: most samples a shard; shards of a split differ by at most one sample.
        progress: called with (sources hashed, all).
        trust_etags: take etags that may be an MD5 for one, unless some that are compared are not.

    Raises:
        UsageError: an option is out of range, or the layout is unknown.
        NotFoundError: the source is not there, or has no photo with a label.
        StoreFullError: the temporary folder has no room for the plan, about a kilobyte an image.
    """
    if not all(1 <= side <= MAX_SIDE for side in size):
        raise UsageError(f"size {size[1]}x{size[0]}: both sides must be 1 – {MAX_SIDE} pixels")
    if shard_samples < 1:
        raise UsageError("a shard needs at least one sample: raise --shard-samples")
    store = open_store(source)
    layout = choose_layout(store, layout)
    labels = read_classes(store, layout)
    options = PlanOptions(fingerprint="", source=source, layout=layout, image_size=size, labels=labels)
    known = dict.fromkeys((*labels, *options.classes))  # the background of a binary data set is nowhere in the source
    settings = [FORMAT, layout, list(size), shard_samples, [label.to_json() for label in known]]
    skipped: list[SkippedSource] = []
    notes: list[str] = []
    with on_disk():
        table = TemporaryDatabase()
        if not (count := _find(table, store, layout, skipped, notes)):
            raise nothing_found(store, layout, skipped)
        trust_etags = trust_etags and _etags_are_md5(table, store, count)
        _hash(table, store, skipped, lambda done: progress(done, count) if progress else None, trust_etags)
        options = replace(options, fingerprint=_fingerprint(settings, table))
        _shuffle(table)
        return Plan(options, PlannedShards(table, shard_samples), tuple(skipped), tuple(notes))


def _find(table: TemporaryDatabase, store: Store, layout: str, skipped: list[SkippedSource], notes: list[str]) -> int:
    """Fill the table `found` with all usable samples, and `skipped` with the others; return the number of usable ones."""
    table.execute("CREATE TABLE found (split, key, image, image_size, image_etag, label, label_size, label_etag)")
    samples = _usable(find_samples(store, layout, notes.append), skipped)
    table.executemany("INSERT INTO found VALUES (?, ?, ?, ?, ?, ?, ?, ?)", map(_row, samples))
    return int(table.execute("SELECT count(*) FROM found").fetchone()[0])


def _usable(rows: Iterable[Sample | SkippedSource], skipped: list[SkippedSource]) -> Iterator[Sample]:
    for row in rows:
        if isinstance(row, SkippedSource):
            skipped.append(row)
        elif max(row.image.size, row.label.size if row.label else 0) > MAX_SOURCE_BYTES:
            skipped.append(SkippedSource(row.image.key, f"a file of over {MAX_SOURCE_BYTES} bytes"))
        else:
            yield row


def _row(sample: Sample) -> tuple[object, ...]:
    image, label = sample.image, sample.label
    columns = (packed(label.key), label.size, label.etag) if label else (None, None, None)
    return sample.split, sample.key, packed(image.key), image.size, image.etag, *columns


def _etags_are_md5(table: TemporaryDatabase, store: Store, count: int) -> bool:
    """Return whether all etags that may be the MD5 of their content are it, in a few samples of the source."""
    places = sorted({1 + number * (count - 1) // (_CHECKED - 1) for number in range(_CHECKED)})
    marks = ", ".join("?" for _ in places)
    rows = table.execute(f"SELECT * FROM found WHERE rowid IN ({marks})", places)  # noqa: S608
    files = [ObjectInfo(unpacked(key), *rest) for row in rows for key, *rest in (row[2:5], row[5:8]) if key]
    claims = {info: claim for info in files if (claim := store.claimed_md5(info))}
    return all(store.md5(info) == claim for info, claim in claims.items())


def _hash(
    table: TemporaryDatabase,
    store: Store,
    skipped: list[SkippedSource],
    progress: Callable[[int], None],
    trust_etags: bool,
) -> None:
    """Turn the table `found` into `hashed`; files of a folder that can't be read go to `skipped`."""

    def md5_of(key: bytes, size: int, etag: str) -> str:
        info = ObjectInfo(unpacked(key), size, etag)
        return (trust_etags and store.claimed_md5(info)) or store.md5(info)

    def one(row: Any) -> tuple[object, ...] | SkippedSource:
        split, key, image, size, etag, label, label_size, label_etag = row
        try:
            label_md5 = md5_of(label, label_size, label_etag) if label else None
            image_md5 = md5_of(image, size, etag)
        except StorageError as error:
            if not tagged:  # a bucket may fail for a while, and would then lose this sample
                raise
            return SkippedSource(unpacked(image), str(error))
        return split, key, image, image_md5, label, label_md5, *((etag, label_etag) if tagged else (None, None))

    tagged = isinstance(store, LocalStore)  # elsewhere a tag may be the size alone
    table.execute("CREATE TABLE hashed (split, key, image, image_md5, label, label_md5, image_tag, label_tag)")
    found = table.execute("SELECT * FROM found ORDER BY rowid")
    with ThreadPoolExecutor(_HASH_THREADS) as pool:
        rows = bounded_map(lambda row: pool.submit(one, row), found, 2 * _HASH_THREADS)
        for done, (_, future) in enumerate(rows, 1):
            if isinstance(result := future.result(), SkippedSource):
                skipped.append(result)
            else:
                table.execute("INSERT INTO hashed VALUES (?, ?, ?, ?, ?, ?, ?, ?)", result)
            progress(done)
    table.execute("DROP TABLE found")


def _fingerprint(settings: list[object], table: TemporaryDatabase) -> str:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for row in table.execute("SELECT * FROM hashed ORDER BY split, key, rowid"):
        digest.update(b"\n" + json.dumps(_texts(row)[:6]).encode())
    return digest.hexdigest()


def _shuffle(table: TemporaryDatabase) -> None:
    """Turn `hashed` into `sample`: each split by the hash of its keys, so that a city is spread over all shards."""
    table.create_function("key_hash", 1, lambda key: hashlib.sha256(key.encode()).digest(), deterministic=True)
    table.execute("CREATE TABLE sample AS SELECT * FROM hashed ORDER BY split, key_hash(key), rowid")
    table.execute("DROP TABLE hashed")


def _texts(row: Any) -> list[Any]:
    """Return a row of `hashed` or `sample`, its keys as text."""
    split, key, image, image_md5, label, *rest = row
    return [split, key, unpacked(image), image_md5, label and unpacked(label), *rest]
