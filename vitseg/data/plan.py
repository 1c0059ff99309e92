"""The plan of a data set: which source becomes which sample of which shard.

It is made before any image is opened, and is a pure function of what the source holds and of the options. Its
fingerprint names the data set: the same content gives the same one in a folder and in a bucket.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from vitseg.data.manifest import SkippedSource
from vitseg.data.sources import LAYOUTS, PHOTOS, Sample, detect_layout, find_samples, read_classes
from vitseg.errors import NotFoundError, UsageError
from vitseg.labels import Label, train_classes
from vitseg.storage import Store, open_store

FORMAT = 1
"""Part of the fingerprint: raise it whenever the same source and options give other tars."""
MAX_SOURCE_BYTES = 256 * 2**20
"""Larger source files are skipped."""
MAX_SIDE = 8192
"""Longest side of prepared images, pixels."""
_HASH_THREADS = 8


@dataclass(frozen=True)
class PlannedSample:
    """One sample to make: keys relative to the source's root, and the MD5 of what they held when planned.

    `label` and `label_md5` are None where photo and label are halves of one image, or there is no label.
    """

    key: str
    image: str
    image_md5: str
    label: str | None
    label_md5: str | None


@dataclass(frozen=True)
class ShardPlan:
    """One part of the work: the samples of the `index`-th shard of a split, in their order."""

    split: str
    index: int
    samples: tuple[PlannedSample, ...]


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What every part of the work needs to know; `image_size` is (height, width) in pixels."""

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
    def truth(self) -> str:
        """What the samples' PNGs hold: see `Manifest.truth`."""
        return {"images": "images", PHOTOS: "none"}.get(self.layout, "classes")


@dataclass(frozen=True)
class Plan:
    """All shards of a data set, and the sources that can't become samples."""

    options: PlanOptions
    shards: tuple[ShardPlan, ...]
    skipped: tuple[SkippedSource, ...]

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the options and the content of every planned source."""
        return self.options.fingerprint

    @property
    def classes(self) -> tuple[Label, ...]:
        """See `PlanOptions.classes`."""
        return self.options.classes

    @property
    def sources(self) -> int:
        """Number of sources; when all is done, samples and skipped rows add up to it."""
        return sum(len(shard.samples) for shard in self.shards) + len(self.skipped)


def make_plan(
    source: str,
    *,
    layout: str = "auto",
    size: tuple[int, int] = (256, 256),
    shard_samples: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """List a source, pair photos with labels, hash both, and cut the samples into shards.

    Args:
        source: folder, `s3://` prefix or other fsspec URL.
        layout: one of `LAYOUTS`, or `auto`.
        size: (height, width) that images will have, pixels.
        shard_samples: most samples a shard; shards of a split differ by at most one sample.
        progress: called with (sources hashed, all).

    Raises:
        UsageError: an option is out of range, or the layout is unknown.
        NotFoundError: the source is not there, or has no photo with a label.
    """
    if layout not in ("auto", *LAYOUTS):
        raise UsageError(f"layout {layout!r} does not exist: choose auto, {', '.join(LAYOUTS)}")
    if not all(1 <= side <= MAX_SIDE for side in size):
        raise UsageError(f"size {size[1]}x{size[0]}: both sides must be 1 – {MAX_SIDE} pixels")
    if shard_samples < 1:
        raise UsageError("a shard needs at least one sample: raise --shard-samples")
    store = open_store(source)
    if layout == "auto":
        layout = detect_layout(store)
    labels = read_classes(store, layout)
    samples, skipped = _usable(store, layout)
    if not samples:
        why = f": {skipped[0].source}: {skipped[0].reason}" if skipped else ""
        what = "photo" if layout == PHOTOS else "labelled photo"
        raise NotFoundError(f"{store.root} has no {what} in layout {layout}{why}")
    hashed = _hash(store, samples, progress)
    options = PlanOptions(fingerprint="", source=source, layout=layout, image_size=size, labels=labels)
    known = dict.fromkeys((*labels, *options.classes))  # the background of a binary data set is nowhere in the source
    settings = [FORMAT, layout, list(size), shard_samples, [label.to_json() for label in known]]
    options = replace(options, fingerprint=_fingerprint(settings, hashed))
    return Plan(options, _cut(hashed, shard_samples), tuple(skipped))


Hashed = list[tuple[str, PlannedSample]]  # (split, sample), by split and key


def _usable(store: Store, layout: str) -> tuple[list[Sample], list[SkippedSource]]:
    samples, skipped = [], []
    for row in find_samples(store, layout):
        if isinstance(row, SkippedSource):
            skipped.append(row)
        elif max(row.image.size, row.label.size if row.label else 0) > MAX_SOURCE_BYTES:
            skipped.append(SkippedSource(row.image.key, f"a file of over {MAX_SOURCE_BYTES} bytes"))
        else:
            samples.append(row)
    return samples, skipped


def _hash(store: Store, samples: list[Sample], progress: Callable[[int, int], None] | None) -> Hashed:
    def one(sample: Sample) -> tuple[str, PlannedSample]:
        label = sample.label
        label_md5 = store.md5(label) if label else None
        planned = PlannedSample(
            sample.key, sample.image.key, store.md5(sample.image), label.key if label else None, label_md5
        )
        return sample.split, planned

    hashed = []
    with ThreadPoolExecutor(_HASH_THREADS) as pool:
        for row in pool.map(one, samples):
            hashed.append(row)
            if progress:
                progress(len(hashed), len(samples))
    return sorted(hashed, key=lambda row: (row[0], row[1].key))


def _fingerprint(settings: list[object], hashed: Hashed) -> str:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for split, sample in hashed:
        row = [split, sample.key, sample.image, sample.image_md5, sample.label, sample.label_md5]
        digest.update(b"\n" + json.dumps(row).encode())
    return digest.hexdigest()


def _cut(hashed: Hashed, shard_samples: int) -> tuple[ShardPlan, ...]:
    """Order each split by the hash of its keys, so that a city is spread over all shards, and cut it."""
    shards = []
    for split, rows in itertools.groupby(hashed, key=lambda row: row[0]):
        samples = sorted((row[1] for row in rows), key=lambda sample: hashlib.sha256(sample.key.encode()).digest())
        count = math.ceil(len(samples) / shard_samples)
        edges = [len(samples) * index // count for index in range(count + 1)]
        shards += [
            ShardPlan(split, index, tuple(samples[start:end]))
            for index, (start, end) in enumerate(itertools.pairwise(edges))
        ]
    return tuple(shards)
