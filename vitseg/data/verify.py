"""Reads a whole data set back and reports what is wrong with it.

It trusts nothing: not the tar, not the names in it, not the sizes it claims. A damaged shard gives lines of text, never
a crash. Members are read as JPEG, PNG and JSON only.
"""

import hashlib
import io
import struct
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from vitseg.data.manifest import Manifest, ShardInfo, read_manifest
from vitseg.errors import DataError, NotFoundError, SampleError
from vitseg.images import MAX_PIXELS
from vitseg.images.decode import decode_stored
from vitseg.json_input import parse_json
from vitseg.labels import IGNORE_INDEX
from vitseg.storage import Store, open_store

MEMBERS = ("jpg", "png", "json")
"""What every sample consists of, and nothing else."""

# What tarfile raises for damaged archives, depending on where the damage is.
_BROKEN_TAR = (tarfile.TarError, OSError, ValueError, EOFError, LookupError, OverflowError, struct.error)


@dataclass(frozen=True)
class VerifyReport:
    """What was read: shards, samples, one line a problem, labeled pixels of each class by split, names of the classes."""

    shards: int
    samples: int
    problems: list[str]
    pixels_per_class: dict[str, tuple[int, ...]]
    classes: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    """What `preprocess` found doubtful about the labels, from the manifest."""


@dataclass
class _Tally:
    """What one split holds, counted again."""

    pixels: np.ndarray
    samples: int = 0
    keys: set[str] = field(default_factory=set)


def verify(shards: str, progress: Callable[[int, int], None] | None = None) -> VerifyReport:
    """Read every shard of a data set: hashes, sizes, counts, members, image sizes and label range.

    `progress` is called with (shards read, all).

    Raises:
        NotFoundError: there is no manifest.
        DataError: the manifest itself is broken.
        AccessError, StorageError: the store refused or failed.
    """
    manifest = read_manifest(shards)
    store = open_store(shards)
    total = sum(len(split.shards) for split in manifest.splits.values())
    done, problems = 0, []
    tallies = {name: _Tally(np.zeros(len(manifest.classes), np.int64)) for name in manifest.splits}
    for name, split in manifest.splits.items():
        for shard in split.shards:
            problems += [f"{shard.name}: {problem}" for problem in _check(store, shard, manifest, tallies[name])]
            done += 1
            if progress:
                progress(done, total)
        if tuple(tallies[name].pixels.tolist()) != split.pixels_per_class:
            problems.append(f"split {name}: the manifest's pixels_per_class are not those of its labels")
    return VerifyReport(
        shards=done,
        samples=sum(tally.samples for tally in tallies.values()),
        problems=problems,
        pixels_per_class={name: tuple(tally.pixels.tolist()) for name, tally in tallies.items()},
        classes=tuple(label.name for label in manifest.classes),
        warnings=manifest.warnings,
    )


def _check(store: Store, shard: ShardInfo, manifest: Manifest, tally: _Tally) -> Iterator[str]:
    """Yield the problems of one shard, and add what it holds to the tally."""
    there = store.stat(shard.name)
    if there is None:
        yield "is missing"
        return
    if there.size != shard.bytes:
        yield f"has {there.size} bytes, the manifest says {shard.bytes}"
        if there.size > 2 * shard.bytes:
            return  # not to be read into memory
    try:
        data = store.read(shard.name)
    except NotFoundError:
        yield "is missing"
        return
    if hashlib.sha256(data).hexdigest() != shard.sha256:
        yield "has another SHA-256 than the manifest says"
    samples: dict[str, dict[str, bytes]] = {}
    yield from _read_tar(data, samples)
    if len(samples) != shard.samples:
        yield f"has {len(samples)} samples, the manifest says {shard.samples}"
    for key, members in samples.items():
        if key in tally.keys:
            yield f"{key}: the key is in the split twice"
        tally.keys.add(key)
        tally.samples += 1
        yield from (f"{key}: {problem}" for problem in _check_sample(members, manifest, tally))


def _read_tar(data: bytes, samples: dict[str, dict[str, bytes]]) -> Iterator[str]:
    """Fill `samples` (key → extension → content) as far as the tar can be read."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                if not member.isreg() or member.issparse() or member.size > len(data):
                    yield f"{member.name!r} is not a plain file"
                elif extension not in MEMBERS or not key:
                    yield f"{member.name!r} is none of {', '.join(MEMBERS)}"
                elif extension in samples.setdefault(key, {}):
                    yield f"{member.name!r} is there twice"
                else:
                    file = tar.extractfile(member)
                    samples[key][extension] = file.read() if file else b""
    except _BROKEN_TAR as error:
        yield f"can't be read to its end: {error}"


def _check_sample(members: dict[str, bytes], manifest: Manifest, tally: _Tally) -> Iterator[str]:
    missing = [name for name in MEMBERS if name not in members]
    if missing:
        yield f"has no {', '.join(missing)}"
    if "jpg" in members:
        yield from _check_image(members["jpg"], "the photo", ("JPEG", "RGB"), manifest)[1]
    if "json" in members:
        try:
            parse_json(members["json"])
        except DataError as error:
            yield f"its origin is {error}"
    if "png" in members:
        mode = "RGB" if manifest.targets == "images" else "L"
        label, problems = _check_image(members["png"], "the label", ("PNG", mode), manifest)
        yield from problems
        if label is not None and manifest.targets != "images":
            counts = np.bincount(np.asarray(label).ravel(), minlength=256)
            classes = len(manifest.classes)
            tally.pixels += counts[:classes]
            if counts[classes:IGNORE_INDEX].any():
                yield f"the label has ids from {classes} up that are not {IGNORE_INDEX}"


def _check_image(
    data: bytes, what: str, kind: tuple[str, str], manifest: Manifest
) -> tuple[Image.Image | None, list[str]]:
    """Return the image, or None where it is broken or of another format and mode, and its problems."""
    try:
        image = decode_stored(data, MAX_PIXELS)
    except SampleError as error:
        return None, [f"{what}: {error}"]
    if (image.format, image.mode) != kind:
        return None, [f"{what} is {image.format} of mode {image.mode}, not {' of mode '.join(kind)}"]
    height, width = manifest.image_size
    if image.size != (width, height):
        return image, [f"{what} is {image.width}x{image.height}, not {width}x{height}"]
    return image, []
