"""One source → one sample: decode, check, resize and encode a photo and its label, or its target image.

Whatever is wrong with the files becomes a SampleError with a short reason, the same on every run.
"""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from PIL import Image

from vitseg.data.color_labels import nearest_colors
from vitseg.data.findings import Findings, Remark
from vitseg.data.label_image import FAR_COLORS, Holds, LabelPixels, nearest, read_label
from vitseg.data.label_orientation import decode_label
from vitseg.data.pairs import split_pair
from vitseg.data.plan import PlannedSample, PlanOptions
from vitseg.data.sources import PHOTOS
from vitseg.errors import SampleError
from vitseg.images import MAX_PIXELS
from vitseg.images.decode import broken_images, decode_image, to_rgb
from vitseg.images.resize import model_input, resize
from vitseg.labels import IGNORE_INDEX

JPEG_QUALITY = 95
PNG_LEVEL = 4
"""Level 9 makes masks a tenth smaller for ten times the time."""


def make_sample(
    planned: PlannedSample, split: str, options: PlanOptions, image: bytes, label: bytes | None
) -> tuple[dict[str, bytes], np.ndarray, Findings]:
    """Return the tar members of one sample, its labeled pixels, and what its label holds that no class explains.

    The pixels that are encoded as the sample's photo are exactly those that `segment` feeds a model of this size for the
    same file (`vitseg.images.resize.model_input`), or for the left half of a pair; JPEG then changes them a little.

    Args:
        planned: names and hashes of the source.
        split: the split it belongs to, for its origin.
        options: layout, classes and image size.
        image: content of the photo's file, or of the pair's.
        label: content of the label's file; None for `pairs` and `photos`.

    Returns:
        `{"jpg", "png", "json"}` → bytes; pixels of each class, int64 (K,), K = 0 for image pairs; findings.

    Raises:
        SampleError: the files are broken, don't belong together, or have no labeled pixel.
    """
    size = options.image_size
    if label is None and options.layout != PHOTOS:
        left, right = split_pair(decode_image(image, MAX_PIXELS), options.labels)
        photo, source_size = resize(left, size), (left.shape[0], left.shape[1])
        train_ids, far = nearest_colors(nearest(right, size), options.labels)
        target = LabelPixels(train_ids, far, {FAR_COLORS: far} if far else {})
    else:
        photo, source_size = model_input(image, size, MAX_PIXELS)
        target = _target(planned, options, image, label, source_size)
    counts = np.bincount(target.train_ids.ravel(), minlength=256)[: len(options.classes)]
    if options.classes and not counts.any():
        if options.layout == "cityscapes" and split == "test":
            raise SampleError("no labeled pixel: Cityscapes keeps the labels of its test split to itself")
        raise SampleError("no labeled pixel")
    origin = {
        "source": planned.image,
        "label": planned.label,
        "split": split,
        "width": source_size[1],
        "height": source_size[0],
        "md5": planned.image_md5,
        "label_md5": planned.label_md5,
    }
    text = json.dumps(origin, sort_keys=True).encode()
    remarks = tuple(Remark(remark, 1, planned.image) for remark in target.remarks)
    found = Findings(target.unknown_pixels, target.unknown, remarks)
    return {"jpg": encode_photo(photo), "png": encode_label(target.train_ids), "json": text}, counts, found


def _target(
    planned: PlannedSample, options: PlanOptions, image: bytes, label: bytes | None, source_size: tuple[int, int]
) -> LabelPixels:
    """Return train ids, uint8 (H, W), or a target image, uint8 (H, W, 3), for a photo whose size was `source_size`."""
    size = options.image_size
    if label is None:
        return LabelPixels(np.full(size, IGNORE_INDEX, np.uint8))
    what = "label" if options.classes else "target"
    with _named(what):
        mask, file, remarks = decode_label(label, image, source_size, MAX_PIXELS)
    if (mask.height, mask.width) != source_size:
        raise SampleError(f"the photo is {_text(source_size)}, but its {what} {_text((mask.height, mask.width))}")
    if options.classes:
        found = read_label(mask, file, options.labels, size, _holds(planned, options))
        return replace(found, remarks=(*remarks, *found.remarks))
    with _named(what), broken_images():
        return LabelPixels(resize(np.asarray(to_rgb(mask)), size), remarks=remarks)


def _holds(planned: PlannedSample, options: PlanOptions) -> Holds:
    """Return what the layout says of a label file: Cityscapes has it in the file's name."""
    if options.layout != "cityscapes":
        return "either"
    return "colors" if str(planned.label).endswith("_gtFine_color.png") else "ids"


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Name the file that an error is about; by default it is the photo."""
    try:
        yield
    except SampleError as error:
        raise SampleError(f"the {what}: {error}") from error


def encode_photo(photo: np.ndarray) -> bytes:
    """Encode a photo, uint8 (H, W, 3), as JPEG."""
    out = io.BytesIO()
    Image.fromarray(photo).save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue()


def encode_label(target: np.ndarray) -> bytes:
    """Encode train ids, uint8 (H, W), or a target image, uint8 (H, W, 3), as 8-bit PNG without a palette."""
    out = io.BytesIO()
    Image.fromarray(target).save(out, "PNG", compress_level=PNG_LEVEL)
    return out.getvalue()


def _text(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"
