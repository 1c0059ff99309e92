"""One object: read it into a task for the model, or write what the model says about it; either gives its row."""

import time
from dataclasses import dataclass
from urllib.parse import quote

import numpy as np
from PIL import Image

from vitseg.errors import DataError, NotFoundError, SampleError, StorageError
from vitseg.inference.existing import find_mask
from vitseg.inference.images import decode_image, has_image_name, is_image, model_input, worth_reading
from vitseg.inference.job import PICTURES, Job, mask_key, picture_key
from vitseg.inference.ledger import Listed, Row
from vitseg.inference.predict import Painting, Prediction
from vitseg.masks import (
    class_fractions,
    colorize,
    confidence_image,
    decode_colors,
    decode_mask,
    encode_colors,
    encode_mask,
    encode_picture,
    overlay,
    renumber,
)
from vitseg.model.bundle import Bundle
from vitseg.storage import ObjectInfo, Store

ALREADY_DONE = "already done"
NOT_AN_IMAGE = "not an image"
_S3_METADATA_BYTES = 2000  # S3 takes 2 KB of metadata, as sent


@dataclass(frozen=True)
class Setting:
    """What all objects of a chunk share."""

    job: Job
    source: Store
    dest: Store
    bundle: Bundle
    numbers: np.ndarray  # uint8 (K,): train id -> id in the file
    palette: np.ndarray  # uint8 (256, 3)

    @property
    def keeps_data(self) -> bool:
        """Whether the object's bytes are needed again, for the photo at its own size."""
        return self.job.options.tile or "overlay" in self.job.options.also


@dataclass(frozen=True)
class Task:
    """An image that waits for the model."""

    info: ObjectInfo
    pixels: np.ndarray  # uint8 (3, h, w)
    size: tuple[int, int]  # (H, W) of the image
    data: bytes | None
    seconds: float


def read_object(setting: Setting, item: Listed) -> Row | Task:
    """Return the row of an object where there is nothing to predict, else the task.

    Raises:
        AccessError: the source or destination refuses these credentials.
        StorageError: the destination can't be read.
    """
    started = time.perf_counter()
    job, info = setting.job, item.info
    if item.problem:
        return _row(info, "failed", item.problem)
    existing = find_mask(setting.dest, info, job.model.sha256, job.options)
    row = existing and _existing_row(setting, info, *existing)
    if row:
        return row
    named = has_image_name(info.key)
    if not worth_reading(info.key, info.size, job.options.max_pixels):
        return _row(info, "failed", f"{info.size} bytes: too large") if named else _not_an_image(info)
    try:
        data = setting.source.read(info.key)
        if not named and not is_image(data):
            return _not_an_image(info)
        pixels, size = model_input(data, setting.bundle.image_size, job.options.max_pixels)
    except NotFoundError:
        return _row(info, "failed", "it was listed, but is not there any more")
    except (StorageError, SampleError) as error:
        return _row(info, "failed", str(error))
    return Task(info, pixels, size, data if setting.keeps_data else None, time.perf_counter() - started)


def write_object(setting: Setting, task: Task, prediction: Prediction | Painting, seconds: float) -> Row:
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
    if isinstance(prediction, Painting):
        _put(setting, info, encode_colors(prediction.colors, metadata), metadata)
        return _mask_row(setting, info, prediction.colors, metadata)
    metadata["mean-confidence"] = f"{prediction.mean_confidence:.6f}"
    ids = renumber(prediction.ids, setting.numbers)
    for kind in job.options.also:
        picture = _picture(setting, kind, task, prediction, ids)
        content_type = "image/jpeg" if PICTURES[kind] == "jpg" else "image/png"
        data = encode_picture(picture, PICTURES[kind])
        setting.dest.write(picture_key(kind, info.key), data, content_type=content_type)
    _put(setting, info, encode_mask(ids, setting.palette, metadata), metadata)
    return _mask_row(setting, info, ids, metadata)


def _put(setting: Setting, info: ObjectInfo, data: bytes, metadata: dict[str, str]) -> None:
    setting.dest.write(mask_key(info.key), data, metadata=_object_metadata(metadata), content_type="image/png")


def _picture(setting: Setting, kind: str, task: Task, prediction: Prediction, ids: np.ndarray) -> np.ndarray:
    if kind == "color":
        return colorize(ids, setting.palette)
    if kind == "overlay":
        return overlay(photo_of(task, setting.job), ids, setting.palette)
    grey = Image.fromarray(confidence_image(prediction.confidence))
    return np.asarray(grey.resize((task.size[1], task.size[0]), Image.Resampling.BILINEAR))


def photo_of(task: Task, job: Job) -> np.ndarray:
    """Return the image of a task at its own size, uint8 (H, W, 3).

    Decoded once more: kept since the first time, photos would pile up between the threads.
    """
    assert task.data is not None
    return np.asarray(decode_image(task.data, job.options.max_pixels))


def _existing_row(setting: Setting, info: ObjectInfo, data: bytes, metadata: dict[str, str]) -> Row | None:
    """Return the row of a mask that still holds; None where it is damaged and must be made again."""
    try:
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
    return _row(info, "skipped", NOT_AN_IMAGE)


def _row(info: ObjectInfo, status: str, reason: str) -> Row:
    error = " ".join(reason.split())[:500]  # one line
    return Row(key=info.key, etag=info.etag, bytes=info.size, status=status, error=error)


def _object_metadata(metadata: dict[str, str]) -> dict[str, str]:
    sent = sum(len(name) + len(quote(value)) for name, value in metadata.items())
    if sent <= _S3_METADATA_BYTES:
        return metadata
    return {name: value for name, value in metadata.items() if name != "source-key"}  # the PNG has it
