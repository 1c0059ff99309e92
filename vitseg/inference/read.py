"""Read one object: a task for the model, or the row of an object that needs no prediction."""

import time
from dataclasses import dataclass, replace

import numpy as np

from vitseg.errors import AccessError, NotFoundError, SampleError, StorageError
from vitseg.images.decode import open_image
from vitseg.images.formats import (
    APPLE_DOUBLE,
    SNIFFED_BYTES,
    begins_as_image,
    has_image_name,
    is_image,
    may_be_image,
    may_be_read,
)
from vitseg.images.resize import model_input
from vitseg.inference.context import ChunkContext
from vitseg.inference.ledger import Listed, Row, row_without_mask
from vitseg.inference.reusable_mask import find_reusable_mask, row_of_mask
from vitseg.masks import is_mask
from vitseg.storage import ObjectInfo

NOT_AN_IMAGE = "not an image"
A_MASK = "a mask of an earlier job"


@dataclass(frozen=True)
class Task:
    """An image that waits for the model."""

    info: ObjectInfo
    pixels: np.ndarray | None  # uint8 (h, w, 3); None with `--tile`, which decodes when it is its turn
    size: tuple[int, int] | None  # (H, W) of the image, where it is decoded
    data: bytes | None  # where the photo is needed at its own size
    seconds: float


def read_object(context: ChunkContext, item: Listed) -> Row | Task:
    """Return the row of an object where there is nothing to predict, else the task.

    Raises:
        AccessError: the source or destination refuses these credentials, and not this object alone.
        StorageError: the source can't be read, and not this object alone, or the destination.
    """
    started = time.perf_counter()
    job, info, stopwatch = context.job, item.info, context.stopwatch
    if item.problem:
        return row_without_mask(info, "failed", item.problem)
    if item.made or not context.fresh:
        with stopwatch.measure("check"):
            existing = find_reusable_mask(context.dest, info, job.model.sha256, job.options)
            row = existing and row_of_mask(context, info, *existing)
        if row:
            return row
    named = has_image_name(info.key)
    no_image = row_without_mask(info, "skipped", NOT_AN_IMAGE)
    try:
        with stopwatch.measure("fetch"):
            is_certain = named
            if not named:
                start = context.source.read_start(info.key, SNIFFED_BYTES)
                if not may_be_image(start):
                    return no_image  # without fetching all of it, again in each job
                is_certain = begins_as_image(start)
            if not may_be_read(info.size, job.options.max_pixels, is_certain=is_certain):
                return row_without_mask(info, "failed", f"{info.size} bytes: too large") if is_certain else no_image
            data, etag = context.source.read_tagged(info.key)
        if data.startswith(APPLE_DOUBLE):
            other = info.key.rpartition("/")[2].removeprefix("._")
            return row_without_mask(info, "skipped", f"{NOT_AN_IMAGE}: what macOS knows of {other}")
        if not named and not is_image(data):
            return no_image
        if is_mask(data):
            return row_without_mask(info, "skipped", A_MASK)
        info = replace(info, size=len(data), etag=etag)  # it may have changed since it was listed
        with stopwatch.measure("decode"):
            return _task(context, info, data, started)
    except NotFoundError:
        return row_without_mask(info, "failed", "it was listed, but is not there any more")
    except (AccessError, StorageError) as error:
        next(iter(context.source.list()), None)  # if this fails too, the store is the reason and not this object
        return row_without_mask(info, "failed", str(error))
    except SampleError as error:
        return row_without_mask(info, "failed", str(error))


def _task(context: ChunkContext, info: ObjectInfo, data: bytes, started: float) -> Task:
    options = context.job.options
    if options.tile:
        open_image(data, options.max_pixels)  # so that what is no image fails already here
        return Task(info, None, None, data, time.perf_counter() - started)
    pixels, size = model_input(data, context.bundle.image_size, options.max_pixels)
    kept = data if "overlay" in options.also else None
    return Task(info, pixels, size, kept, time.perf_counter() - started)
