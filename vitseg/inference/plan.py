"""Freeze the listing of a source into chunks, so that a job that is started again works on the same ones.

`plan_job("s3://photos/2024", "s3://masks/2024", model=…)` lists the photos, writes
`s3://masks/2024/_vitseg/1f0c…-1/listing/part-00000.parquet` …, then `listing.json`, and returns the Job.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

from vitseg.errors import DataError, NotFoundError, UsageError
from vitseg.inference.existing import find_mask
from vitseg.inference.job import MAX_PIXELS, RESERVED, Job, ModelRef, Options, job_digest, key_problem
from vitseg.inference.ledger import Listed, write_listing
from vitseg.storage import ObjectInfo, Store, canonical, open_store

_THREADS = 16
_BLOCK = 1000  # objects of a dry run in flight


@dataclass(frozen=True)
class DryRun:
    """What a job would do."""

    listed: int
    """Objects under the source."""
    done: int
    """Objects whose mask is there and still holds."""
    todo: int
    """The others: they would be read, and segmented where they are images."""
    bytes: int
    """Size of those others."""

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def plan_job(
    source: str,
    dest: str,
    *,
    model: ModelRef,
    ids: str = "train",
    also: tuple[str, ...] = (),
    tile: bool = False,
    max_pixels: int = MAX_PIXELS,
    chunk_images: int = 64,
    batch_size: int = 8,
    progress: Callable[[int], None] | None = None,
) -> Job:
    """List the source and freeze the listing under DEST, or find the unfinished job that did.

    A job is *unfinished* while it has no summary.json. With the same source, destination, model and options it
    is resumed, with its own listing and chunks; after a finished one, a new number and a fresh listing follow.

    Args:
        source: folder, prefix or single object to segment.
        dest: folder or prefix for the masks; inside the source is fine, what lies there is not listed.
        model: the model.
        ids: `train` or `label`, the numbers in the masks.
        also: pictures beside the masks, of `color`, `overlay`, `confidence`.
        tile: slide the model over images at their own scale.
        max_pixels: larger images are refused; 200 million by default.
        chunk_images: objects a chunk.
        batch_size: images a forward pass.
        progress: called with the number of objects listed so far.

    Raises:
        NotFoundError: the source or the destination's bucket does not exist, or the source is empty.
        UsageError: an option is wrong, or the masks would fall among the images.
    """
    if chunk_images < 1 or batch_size < 1:
        raise UsageError("chunk_images and batch_size must be at least 1")
    options = Options(ids=ids, also=also, tile=tile, max_pixels=max_pixels)
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
        chunk_images=chunk_images,
        listed=0,
        bytes=0,
    )
    try:
        frozen = _read_frozen(store, job)
    except NotFoundError:
        frozen = _freeze(store, job, progress)
    return replace(job, **frozen)


def dry_run(
    source: str,
    dest: str,
    *,
    model: ModelRef,
    ids: str = "train",
    also: tuple[str, ...] = (),
    tile: bool = False,
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[int], None] | None = None,
) -> DryRun:
    """Count what `plan_job` with the same arguments would leave to do; writes nothing.

    Raises:
        NotFoundError: the source does not exist or is empty.
        UsageError: an option is wrong.
    """
    options = Options(ids=ids, also=also, tile=tile, max_pixels=max_pixels)
    source, dest = canonical(source), canonical(dest)
    store = open_store(dest)
    _, objects = list_source(source, dest)
    listed = done = size = 0

    def is_done(info: ObjectInfo) -> bool:
        return not key_problem(info.key, store) and find_mask(store, info, model.sha256, options) is not None

    with ThreadPoolExecutor(_THREADS) as pool:
        while block := list(islice(objects, _BLOCK)):
            there = list(pool.map(is_done, block))
            listed += len(block)
            done += sum(there)
            size += sum(info.size for info, is_there in zip(block, there, strict=True) if not is_there)
            if progress:
                progress(listed)
    return DryRun(listed, done, listed - done, size)


def list_source(source: str, dest: str) -> tuple[str, Iterator[ObjectInfo]]:
    """Return what keys are relative to, and the objects to segment, page by page.

    What lies under DEST or in a folder named `_vitseg` is left out.

    Raises:
        NotFoundError: there is nothing.
        UsageError: DEST is the source itself.
    """
    if source == dest:
        raise UsageError(f"{dest} is the source: masks need a place of their own, for example {dest}/masks")
    inside = f"{source.rstrip('/')}/"
    own = f"{dest.removeprefix(inside)}/" if dest.startswith(inside) else None

    def ours(info: ObjectInfo) -> bool:
        return (own is not None and info.key.startswith(own)) or RESERVED in info.key.split("/")[:-1]

    objects = (info for info in open_store(source).list() if not ours(info))
    first = next(objects, None)
    if first is not None:
        return source, _chain(first, objects)
    parent, _, name = source.rpartition("/")
    if name and not parent.endswith(":/"):  # "s3://bucket" has no parent
        single = open_store(parent or "/").stat(name)
        if single is not None:
            return parent or "/", iter([single])
    raise NotFoundError(f"{source} does not exist or holds no objects: check the address")


def _chain(first: ObjectInfo, rest: Iterator[ObjectInfo]) -> Iterator[ObjectInfo]:
    yield first
    yield from rest


def _freeze(store: Store, job: Job, progress: Callable[[int], None] | None) -> dict[str, Any]:
    root, objects = list_source(job.source, job.dest)
    listed = size = index = 0
    while block := list(islice(objects, job.chunk_images)):
        write_listing(store, job.listing_key(index), [_listed(info, store) for info in block])
        index += 1
        listed += len(block)
        size += sum(info.size for info in block)
        if progress:
            progress(listed)
    frozen = {"root": root, "chunk_images": job.chunk_images, "listed": listed, "bytes": size}
    # Written last: without it a listing that was cut off is made anew.
    store.write(job.file("listing.json"), json.dumps(frozen).encode(), content_type="application/json")
    return frozen


def _read_frozen(store: Store, job: Job) -> dict[str, Any]:
    key = job.file("listing.json")
    try:
        frozen = json.loads(store.read(key))
        numbers = {name: int(frozen[name]) for name in ("chunk_images", "listed", "bytes")}
        return {"root": str(frozen["root"]), **numbers}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{store.uri(key)} is broken: delete it to list the source anew") from error


def _listed(info: ObjectInfo, store: Store) -> Listed:
    problem = key_problem(info.key, store)
    # A name that is not UTF-8 can't be stored; its row shows it with \udc.. escapes.
    key = info.key.encode("utf-8", "backslashreplace").decode()
    return Listed(ObjectInfo(key, info.size, info.etag), problem)
