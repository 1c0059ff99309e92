"""One source → one sample: decode, check, resize and encode a photo and its label, or its target image.

Whatever is wrong with the files becomes a SampleError with a short reason, the same on every run.
"""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from vitseg.data.color_labels import exact_colors, nearest_colors
from vitseg.data.pairs import split_pair
from vitseg.data.plan import PlannedSample, PlanOptions
from vitseg.data.sources import PHOTOS
from vitseg.errors import SampleError
from vitseg.images import MAX_PIXELS
from vitseg.images.decode import broken_images, decode_image, decode_stored, to_rgb
from vitseg.images.resize import model_input, resize
from vitseg.labels import IGNORE_INDEX, Label, foreground_class, id_table

JPEG_QUALITY = 95
PNG_LEVEL = 4
"""Level 9 makes masks a tenth smaller for ten times the time."""


def make_sample(
    planned: PlannedSample, split: str, options: PlanOptions, image: bytes, label: bytes | None
) -> tuple[dict[str, bytes], np.ndarray]:
    """Return the tar members of one sample and its labeled pixels.

    The pixels that are encoded as the sample's photo are exactly those that `segment` feeds a model of this size for the
    same file (`vitseg.images.resize.model_input`), or for the left half of a pair; JPEG then changes them a little.

    Args:
        planned: names and hashes of the source.
        split: the split it belongs to, for its origin.
        options: layout, classes and image size.
        image: content of the photo's file, or of the pair's.
        label: content of the label's file; None for `pairs` and `photos`.

    Returns:
        `{"jpg", "png", "json"}` → bytes, and pixels of each class, int64 (K,); K = 0 for image pairs.

    Raises:
        SampleError: the files are broken, don't belong together, or have no labeled pixel.
    """
    size = options.image_size
    if label is None and options.layout != PHOTOS:
        left, right = split_pair(decode_image(image, MAX_PIXELS), options.labels)
        photo, source_size = resize(left, size), (left.shape[0], left.shape[1])
        target = nearest_colors(nearest(right, size), options.labels)
    else:
        photo, source_size = model_input(image, size, MAX_PIXELS)
        target = _target(planned, options, label, source_size)
    counts = np.bincount(target.ravel(), minlength=256)[: len(options.classes)]
    if options.classes and not counts.any():
        withheld = options.layout == "cityscapes" and split == "test"
        raise SampleError("no labeled pixel" + ": Cityscapes keeps the labels of its test split to itself" * withheld)
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
    return {"jpg": encode_photo(photo), "png": encode_label(target), "json": text}, counts


def _target(
    planned: PlannedSample, options: PlanOptions, label: bytes | None, source_size: tuple[int, int]
) -> np.ndarray:
    """Return train ids, uint8 (H, W), or a target image, uint8 (H, W, 3), for a photo whose size was `source_size`."""
    size = options.image_size
    if label is None:
        return np.full(size, IGNORE_INDEX, np.uint8)
    what = "label" if options.classes else "target"
    with _named(what):
        mask = decode_stored(label, MAX_PIXELS)
    if (mask.height, mask.width) != source_size:
        raise SampleError(f"the photo is {_text(source_size)}, but its {what} {_text((mask.height, mask.width))}")
    if options.classes:
        return decode_label(mask, options, colors=str(planned.label).endswith("_gtFine_color.png"))
    with _named(what):
        return resize(np.asarray(_rgb(mask)), size)


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Name the file that an error is about; by default it is the photo."""
    try:
        yield
    except SampleError as error:
        raise SampleError(f"the {what}: {error}") from error


def decode_label(mask: Image.Image, options: PlanOptions, *, colors: bool) -> np.ndarray:
    """Return the train ids of a lossless label, resized to `options.image_size`: uint8 (H, W).

    Label files of `cityscapes` hold ids, or `colors`. Those of `folders` hold either: images with one
    channel are ids, images with several are colors, and a palette image holds whichever its values fit. In a
    binary data set all values fit: there it holds colors only if the foreground's color occurs and its id does not.

    Raises:
        SampleError: ids or colors are not in the list of classes.
    """
    one_channel = mask.mode in ("1", "L", "P", "I") or mask.mode.startswith("I;16")
    if options.layout == "cityscapes" and not colors and not one_channel:
        raise SampleError(f"the label is no id image: its mode is {mask.mode}")
    if one_channel and not colors:
        ids = nearest(np.asarray(mask), options.image_size).astype(np.int64)
        if foreground := foreground_class(options.labels):
            if mask.mode != "P" or (ids == foreground.id).any() or not _has_color(mask, foreground):
                return np.where((ids >= 0) & (ids <= 255), id_table(options.labels)[ids.clip(0, 255)], np.uint8(1))
        elif not (unknown := unknown_ids(ids, options.labels)):
            return id_table(options.labels)[ids]
        elif mask.mode != "P" or options.layout == "cityscapes":
            raise SampleError(f"the label has ids that no class has: {', '.join(map(str, unknown[:5]))}")
    return exact_colors(nearest(np.asarray(_rgb(mask)), options.image_size), options.labels)


def unknown_ids(ids: np.ndarray, labels: tuple[Label, ...]) -> list[int]:
    """Return the values of a label image, ascending, that are no label's id; 255 is always known."""
    known = [label.id for label in labels if 0 <= label.id < IGNORE_INDEX] + [IGNORE_INDEX]
    if ids.size and ids.min() >= 0 and ids.max() <= IGNORE_INDEX:  # nearly always: counting is quicker than sorting
        ids = np.flatnonzero(np.bincount(ids.ravel()))
    return [int(value) for value in np.setdiff1d(ids, known)]


def nearest(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (H, W, …) to `size` (height, width): each pixel takes the one under its center, unmixed."""
    rows, columns = (
        ((np.arange(wanted) + 0.5) * given / wanted).astype(np.intp)
        for wanted, given in zip(size, pixels.shape[:2], strict=True)
    )
    return pixels.take(rows, axis=0).take(columns, axis=1)  # rows first: they lie together in memory


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


def _has_color(image: Image.Image, label: Label) -> bool:
    return bool((np.asarray(_rgb(image)) == label.color).all(-1).any())


def _rgb(image: Image.Image) -> Image.Image:
    with broken_images():
        return to_rgb(image)


def _text(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"
