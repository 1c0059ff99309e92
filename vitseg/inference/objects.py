"""One object: read it into a task for the model, or write what the model says about it; either gives its row."""

import sys
import time
from dataclasses import dataclass, field, replace
from urllib.parse import quote

import numpy as np
import torch
from PIL import Image

from vitseg.errors import AccessError, DataError, NameTakenError, NotFoundError, SampleError, StorageError
from vitseg.images.decode import one_large, open_image
from vitseg.images.formats import SNIFFED_BYTES, has_image_name, is_image, may_be_image, may_be_read
from vitseg.images.resize import model_input
from vitseg.images.rows import open_photo, reduced, reduction
from vitseg.inference.job import PICTURES, Job, mask_key, picture_key
from vitseg.inference.ledger import Listed, Row
from vitseg.inference.predict import Painting, Prediction
from vitseg.inference.reuse import find_mask
from vitseg.inference.stages import Stopwatch
from vitseg.masks import (
    class_fractions,
    colorize,
    decode_colors,
    decode_mask,
    encode_colors,
    encode_mask,
    encode_picture,
    is_mask,
    overlay,
    renumber,
)
from vitseg.model.bundle import Bundle
from vitseg.storage import ObjectInfo, Store

ALREADY_DONE = "already done"
NOT_AN_IMAGE = "not an image"
A_MASK = "a mask of an earlier job"
_S3_METADATA_BYTES = 2000  # S3 takes 2 KB of metadata, as sent
_PICTURE_PIXELS = 32_000_000  # of larger images, colors and overlays are made smaller: they are for people


@dataclass(frozen=True)
class Setting:
    """What all objects of a chunk share."""

    job: Job
    source: Store
    dest: Store
    bundle: Bundle
    numbers: np.ndarray  # uint8 (K,): train id -> id in the file
    palette: np.ndarray  # uint8 (256, 3)
    device: torch.device  # of the model
    fresh: bool = False  # nobody has begun with this chunk before: only masks seen in the listing can be there
    watch: Stopwatch = field(default_factory=Stopwatch)


@dataclass(frozen=True)
class Task:
    """An image that waits for the model."""

    info: ObjectInfo
    pixels: np.ndarray | None  # uint8 (h, w, 3); None with `--tile`, which decodes when it is its turn
    size: tuple[int, int] | None  # (H, W) of the image, where it is decoded
    data: bytes | None  # where the photo is needed at its own size
    seconds: float


def read_object(setting: Setting, item: Listed) -> Row | Task:
    """Return the row of an object where there is nothing to predict, else the task.

    Raises:
        AccessError: the source or destination refuses these credentials, and not this object alone.
        StorageError: the source can't be read, and not this object alone, or the destination.
    """
    started = time.perf_counter()
    job, info = setting.job, item.info
    if item.problem:
        return row_of(info, "failed", item.problem)
    if item.made or not setting.fresh:
        with setting.watch.measure("check"):
            existing = find_mask(setting.dest, info, job.model.sha256, job.options)
            row = existing and _existing_row(setting, info, *existing)
        if row:
            return row
    named = has_image_name(info.key)
    if not may_be_read(info.key, info.size, job.options.max_pixels):
        return row_of(info, "failed", f"{info.size} bytes: too large") if named else _not_an_image(info)
    try:
        with setting.watch.measure("fetch"):
            if not named and not may_be_image(setting.source.read_start(info.key, SNIFFED_BYTES)):
                return _not_an_image(info)  # not worth all of it, each time again
            data, etag = setting.source.read_tagged(info.key)
        if not named and not is_image(data):
            return _not_an_image(info)
        if is_mask(data):
            return row_of(info, "skipped", A_MASK)
        info = replace(info, size=len(data), etag=etag)  # it may have changed since it was listed
        with setting.watch.measure("decode"):
            return _task(setting, info, data, started)
    except NotFoundError:
        return row_of(info, "failed", "it was listed, but is not there any more")
    except (AccessError, StorageError) as error:
        next(iter(setting.source.list()), None)  # where that fails too, it is the store and not this object
        return row_of(info, "failed", str(error))
    except SampleError as error:
        return row_of(info, "failed", str(error))


def _task(setting: Setting, info: ObjectInfo, data: bytes, started: float) -> Task:
    options = setting.job.options
    if options.tile:
        open_image(data, options.max_pixels)  # what is no image needs no turn
        return Task(info, None, None, data, time.perf_counter() - started)
    pixels, size = model_input(data, setting.bundle.image_size, options.max_pixels)
    kept = data if "overlay" in options.also else None
    return Task(info, pixels, size, kept, time.perf_counter() - started)


def write_object(setting: Setting, task: Task, prediction: Prediction | Painting, seconds: float) -> Row:
    """Do what `write_mask` does; a row with a reason where a mask's name can't be."""
    try:
        return write_mask(setting, task, prediction, seconds)
    except NameTakenError as error:
        return row_of(task.info, "failed", str(error))


def write_mask(setting: Setting, task: Task, prediction: Prediction | Painting, seconds: float) -> Row:
    """Encode and put pictures and mask, or the image of a model without classes, and return the row.

    The mask comes last: where it is, everything is.

    Raises:
        AccessError, StorageError: the destination can't be written.
        DataError: the model's scores are not numbers.
    """
    job, info = setting.job, task.info
    metadata = {
        "source-etag": info.etag,
        "source-key": info.key,
        "model-name": job.model.name,
        "model-version": job.model.version,
        "model-sha256": job.model.sha256,
        "options": job.options.signature(),
        "job": job.id,
        "seconds": f"{seconds:.6f}",
    }
    watch, dest = setting.watch, setting.dest
    with watch.measure("encode"):
        if isinstance(prediction, Painting):
            pixels = prediction.colors
            mask = encode_colors(pixels, metadata)
        else:
            metadata["mean-confidence"] = f"{prediction.mean_confidence:.6f}"
            pixels = renumber(prediction.ids, setting.numbers)
            mask = encode_mask(pixels, setting.palette, metadata)
    for kind in job.options.also:
        with watch.measure("encode"):
            assert isinstance(prediction, Prediction)
            picture = encode_picture(_picture(setting, kind, task, prediction, pixels), PICTURES[kind])
        with watch.measure("write"):
            content_type = "image/jpeg" if PICTURES[kind] == "jpg" else "image/png"
            dest.write(picture_key(kind, info.key), picture, content_type=content_type)
    with watch.measure("write"):
        dest.write(mask_key(info.key), mask, metadata=_object_metadata(metadata), content_type="image/png")
    return _mask_row(setting, info, pixels, metadata)


def _picture(setting: Setting, kind: str, task: Task, prediction: Prediction, ids: np.ndarray) -> np.ndarray:
    height, width = ids.shape
    if kind == "confidence":
        assert prediction.confidence is not None
        if prediction.confidence.shape == ids.shape:
            return prediction.confidence
        gray = Image.fromarray(prediction.confidence)
        return np.asarray(gray.resize((width, height), Image.Resampling.BILINEAR))
    step = reduction(height * width, _PICTURE_PIXELS)
    if step > 1:
        middles = (np.minimum(np.arange(0, side, step) + step // 2, side - 1) for side in (height, width))
        ids = ids[np.ix_(*middles)]
    if kind == "color":
        return colorize(ids, setting.palette)
    # The photo is decoded once more: kept since the first time, photos would pile up between the threads.
    assert task.data is not None
    with one_large(height * width), open_photo(task.data, setting.job.options.max_pixels) as photo:
        return overlay(reduced(photo, _PICTURE_PIXELS), ids, setting.palette)


def _existing_row(setting: Setting, info: ObjectInfo, data: bytes, metadata: dict[str, str]) -> Row | None:
    """Return the row of a mask that still holds; None where it is damaged and must be made again."""
    try:
        header = open_image(data, sys.maxsize)
        with one_large(header.width * header.height):
            pixels, _ = decode_mask(data) if setting.bundle.classes else decode_colors(data)
            return _mask_row(setting, info, pixels, metadata)
    except (DataError, KeyError, ValueError):
        return None


def _mask_row(setting: Setting, info: ObjectInfo, pixels: np.ndarray, metadata: dict[str, str]) -> Row:
    # The same for a mask just made and one found: a killed job's ledger comes out as an undisturbed one's.
    own = metadata["job"] == setting.job.id
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
        class_fractions=class_fractions(pixels, setting.numbers) if is_mask else None,
    )


def _not_an_image(info: ObjectInfo) -> Row:
    return row_of(info, "skipped", NOT_AN_IMAGE)


def row_of(info: ObjectInfo, status: str, reason: str) -> Row:
    """Return the row of an object that gets no mask."""
    error = " ".join(reason.split())[:500]  # one line
    return Row(key=info.key, etag=info.etag, bytes=info.size, status=status, error=error)


def _object_metadata(metadata: dict[str, str]) -> dict[str, str]:
    sent = sum(len(name) + len(quote(value)) for name, value in metadata.items())
    if sent <= _S3_METADATA_BYTES:
        return metadata
    return {name: value for name, value in metadata.items() if name != "source-key"}  # the PNG has it
