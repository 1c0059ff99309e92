"""Freeze the listing of a source into chunks: a job that is started again works on the same ones.

`plan_job("s3://photos/2024", "s3://masks/2024", model=…)` lists the photos, writes
`s3://masks/2024/_vitseg/1f0c…-1/listing/part-00000.parquet` …, then `listing.json`, and returns the Job.
"""

import hashlib
import json
import secrets
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice
from typing import Any

import numpy as np

from vitseg.errors import DataError, NotFoundError, UsageError
from vitseg.images.formats import has_image_name
from vitseg.inference.job import RESERVED, Job, ModelRef, Options, job_digest, key_problem, mask_key
from vitseg.inference.ledger import Listed, write_listing
from vitseg.storage import ObjectInfo, Store, as_prefix, canonical, open_store, split_address

_FEWEST, _MOST = 16, 256  # objects a chunk, by default
_SOURCES = f"{RESERVED}/sources"
_ROUNDS = 4  # chunks a worker, in a small job


def plan_job(
    source: str,
    dest: str,
    *,
    model: ModelRef,
    options: Options = Options(),
    chunk_images: int | None = None,
    workers: int = 1,
    batch_size: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Job:
    """List the source and freeze the listing under DEST, or find the unfinished job that did.

    A job is *unfinished* while it has no summary.json. With the same source, destination, model and options it
    is resumed, with its own listing and chunks; after a finished one, a new number and a fresh listing follow.

    Args:
        source: folder, prefix or single object to segment.
        dest: folder or prefix for the masks; inside the source is fine, what lies there is not listed.
        model: the model.
        options: what decides the content of the masks.
        chunk_images: objects a chunk; by default so many that all workers have some, at most 256.
        workers: how many there will be.
        batch_size: images a forward pass; by default as suits the device.
        progress: called with the number of objects listed so far.

    Raises:
        NotFoundError: the source or the destination's bucket does not exist, or the source is empty.
        UsageError: a number is wrong, or the masks would fall among the images.
    """
    if (chunk_images is not None and chunk_images < 1) or (batch_size is not None and batch_size < 1):
        raise UsageError("chunk_images and batch_size must be at least 1")
    source, dest = canonical(source), canonical(dest)
    digest = job_digest(source, dest, model, options)
    store = open_store(dest)
    number = 1
    while store.stat(f"{RESERVED}/{digest}-{number}/summary.json"):
        number += 1
    job = Job(
        id=f"{digest}-{number}",
        source=source,
        root=source,
        dest=dest,
        model=model,
        options=options,
        batch_size=batch_size,
        chunk_images=0,
        listed=0,
        bytes=0,
        listing=secrets.token_hex(4),
    )
    try:
        frozen = _read_frozen(store, job)
    except NotFoundError:
        _freeze(store, job, chunk_images, workers, progress)
        frozen = _read_frozen(store, job)  # where two began at once, that of the first to end
    return replace(job, **frozen)


def another_source(job: Job) -> str | None:
    """Return another source with masks under the same DEST: masks are named by key alone, so equal keys share one."""
    store = open_store(job.dest)
    others = (info.key for info in store.list(f"{_SOURCES}/") if info.key != _source_key(job.root))
    key = next(others, None)
    return store.read(key).decode("utf-8", "replace") if key else None


def _source_key(root: str) -> str:
    return f"{_SOURCES}/{hashlib.sha256(root.encode('utf-8', 'backslashreplace')).hexdigest()[:16]}.txt"


def list_source(source: str, dest: str) -> tuple[str, Iterator[ObjectInfo]]:
    """Return the root that keys are relative to, and the objects to segment, page by page.

    What lies under DEST or in a folder named `_vitseg` is excluded.

    Raises:
        NotFoundError: there is nothing.
        UsageError: DEST is the source itself, or the source is an image and a prefix of others.
    """
    if source == dest:
        raise UsageError(f"{dest} is the source: masks need a place of their own, for example {dest}/masks")
    inside = as_prefix(source)
    masks = as_prefix(dest.removeprefix(inside)) if dest.startswith(inside) else None

    def excluded(info: ObjectInfo) -> bool:
        return (masks is not None and info.key.startswith(masks)) or RESERVED in info.key.split("/")[:-1]

    objects = (info for info in open_store(source).list() if not excluded(info))
    first = next(objects, None)
    parent, name = split_address(source)
    if first is not None:
        if has_image_name(name) and open_store(parent).stat(name):
            raise UsageError(
                f"{source} is an object, and {first.key} lies under it as in a folder: segment {parent} or rename one"
            )
        return source, chain([first], objects)
    if name and (single := open_store(parent).stat(name)):
        return canonical(parent), iter([single])
    raise NotFoundError(f"{source} does not exist or holds no objects: check the address")


def _freeze(
    store: Store, job: Job, chunk_images: int | None, workers: int, progress: Callable[[int], None] | None
) -> None:
    root, objects = list_source(job.source, job.dest)
    if chunk_images is None:
        first = list(islice(objects, _ROUNDS * _MOST * workers))
        chunk_images, objects = _chunk_size(len(first), workers), chain(first, objects)
    masks = MaskIndex.under(store)
    listed = size = index = 0
    while block := list(islice(objects, chunk_images)):
        write_listing(store, job.listing_key(index), [_listed(info, store, masks) for info in block])
        index += 1
        listed += len(block)
        size += sum(info.size for info in block)
        if progress:
            progress(listed)
    frozen = {
        "root": root, "chunk_images": chunk_images, "listed": listed, "bytes": size, "listing": job.listing
    }  # fmt: skip
    text = root.encode("utf-8", "backslashreplace")
    store.write(_source_key(root), text, content_type="text/plain", if_absent=True)
    # Written last: without it a listing that was cut off is made anew.
    listing = json.dumps(frozen).encode()
    store.write(job.file("listing.json"), listing, content_type="application/json", if_absent=True)


def _chunk_size(listed: int, workers: int) -> int:
    """Return the objects a chunk: few enough that no worker is idle for long, enough to be worth a task."""
    own = -(-listed // workers)
    return min(_MOST, own, max(_FEWEST, -(-own // _ROUNDS)))


def _read_frozen(store: Store, job: Job) -> dict[str, Any]:
    key = job.file("listing.json")
    try:
        frozen = json.loads(store.read(key))
        numbers = {name: int(frozen[name]) for name in ("chunk_images", "listed", "bytes")}
        return {"root": str(frozen["root"]), "listing": str(frozen["listing"]), **numbers}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{store.uri(key)} is broken: delete it to list the source anew") from error


def _listed(info: ObjectInfo, store: Store, masks: "MaskIndex") -> Listed:
    problem = key_problem(info.key, store)
    # A name that is not UTF-8 can't be stored; its row shows it with \udc.. escapes.
    key = info.key.encode("utf-8", "backslashreplace").decode()
    return Listed(ObjectInfo(key, info.size, info.etag), problem, masks.may_have(info.key))


class MaskIndex:
    """The keys under DEST, as four bytes each: with it, a million objects without a mask cost no request each."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._hashes = np.unique(np.fromiter(map(_hash, keys), np.uint32))

    @classmethod
    def under(cls, store: Store) -> "MaskIndex":
        """List DEST once, page by page."""
        return cls(info.key for info in store.list() if not info.key.startswith(f"{RESERVED}/"))

    def may_have(self, key: str) -> bool:
        """Return whether an object may have a mask already; only False is certain."""
        place = int(np.searchsorted(self._hashes, sought := _hash(mask_key(key))))
        return place < len(self._hashes) and int(self._hashes[place]) == sought


def _hash(key: str) -> int:
    return zlib.crc32(key.encode("utf-8", "surrogatepass"))
