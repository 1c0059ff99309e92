"""Write the prediction for one object: its mask, and the pictures that the job's options ask for."""

import math
from urllib.parse import quote

import numpy as np
from PIL import Image

from vitseg.errors import NameTakenError
from vitseg.images.decode import one_large
from vitseg.images.resize import resize_rows
from vitseg.images.rows import open_photo
from vitseg.inference.context import ChunkContext
from vitseg.inference.job import PICTURES, mask_key, picture_key
from vitseg.inference.ledger import Row, mask_row, row_without_mask
from vitseg.inference.predict import Prediction
from vitseg.inference.upsample import ImagePrediction, MaskPrediction
from vitseg.masks import colorize, encode_colors, encode_mask, encode_picture, overlay, renumber

_S3_METADATA_BYTES = 2000  # S3 takes 2 KB of metadata, as sent
_PICTURE_PIXELS = 32_000_000  # of larger images, colors and overlays are made smaller: they are for people


def write_object(context: ChunkContext, prediction: Prediction) -> Row:
    """Write pictures and mask, or the image of a model without classes, and return the row.

    The mask comes last: where it exists, its pictures exist, too. Where no object can have its name, the row is a failed one.
    """
    job, info, output = context.job, prediction.task.info, prediction.output
    stopwatch, dest = context.stopwatch, context.dest
    metadata = {
        "source-etag": info.etag,
        "source-key": info.key,
        "model-name": job.model.name,
        "model-version": job.model.version,
        "model-sha256": job.model.sha256,
        "options": job.options.signature(),
        "job": job.id,
        "seconds": f"{prediction.seconds:.6f}",
    }
    with stopwatch.measure("encode"):
        if isinstance(output, ImagePrediction):
            pixels = output.colors
            mask = encode_colors(pixels, metadata)
        else:
            metadata["mean-confidence"] = f"{output.mean_confidence:.6f}"
            pixels = renumber(output.ids, context.numbers)
            mask = encode_mask(pixels, context.palette, metadata)
    try:
        if isinstance(output, MaskPrediction):
            _write_pictures(context, prediction, output, pixels)
        with stopwatch.measure("write"):
            dest.write(mask_key(info.key), mask, metadata=_object_metadata(metadata), content_type="image/png")
    except NameTakenError as error:
        return row_without_mask(info, "failed", str(error))
    return mask_row(job, info, pixels, metadata, context.numbers)


def _write_pictures(context: ChunkContext, prediction: Prediction, output: MaskPrediction, ids: np.ndarray) -> None:
    for kind in context.job.options.also:
        with context.stopwatch.measure("encode"):
            picture = encode_picture(_picture(context, kind, prediction.task.data, output, ids), PICTURES[kind])
        with context.stopwatch.measure("write"):
            content_type = "image/jpeg" if PICTURES[kind] == "jpg" else "image/png"
            context.dest.write(picture_key(kind, prediction.task.info.key), picture, content_type=content_type)


def _picture(
    context: ChunkContext, kind: str, data: bytes | None, output: MaskPrediction, ids: np.ndarray
) -> np.ndarray:
    height, width = ids.shape
    if kind == "confidence":
        assert output.confidence is not None
        if output.confidence.shape == ids.shape:
            return output.confidence
        gray = Image.fromarray(output.confidence)
        return np.asarray(gray.resize((width, height), Image.Resampling.BILINEAR))
    step = math.ceil((height * width / _PICTURE_PIXELS) ** 0.5)
    if step > 1:
        middles = (np.minimum(np.arange(0, side, step) + step // 2, side - 1) for side in (height, width))
        ids = ids[np.ix_(*middles)]
    if kind == "color":
        return colorize(ids, context.palette)
    # The photo is decoded once more: kept since the first time, photos would pile up between the threads.
    assert data is not None
    with one_large(height * width), open_photo(data, context.job.options.max_pixels) as photo:
        return overlay(resize_rows(photo, ids.shape), ids, context.palette)


def _object_metadata(metadata: dict[str, str]) -> dict[str, str]:
    sent = sum(len(name) + len(quote(value)) for name, value in metadata.items())
    if sent <= _S3_METADATA_BYTES:
        return metadata
    return {name: value for name, value in metadata.items() if name != "source-key"}  # the PNG has it
