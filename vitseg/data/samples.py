"""One source → one sample: open, check, resize and encode a photo and its label, or its target image.

Whatever is wrong with the files becomes a SampleError with a short reason that says the same on every run.
"""

import io
import json
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vitseg.data.color_labels import ColorDecoder
from vitseg.data.plan import PlannedSample, PlanOptions
from vitseg.data.sources import PHOTOS
from vitseg.errors import SampleError
from vitseg.images.png import decode_png
from vitseg.images.rgb import to_rgb
from vitseg.labels import IGNORE_INDEX, Label, id_table, only_thing

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""What source files may be; Pillow's other decoders stay shut."""
MAX_PIXELS = 178_000_000
"""Largest source image, pixels: about where Pillow refuses, too."""
JPEG_QUALITY = 95
PNG_LEVEL = 4
"""Level 9 makes masks a tenth smaller for ten times the time."""

# What Pillow raises for broken files, depending on where they break.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def make_sample(
    planned: PlannedSample, split: str, options: PlanOptions, image: bytes, label: bytes | None
) -> tuple[dict[str, bytes], np.ndarray]:
    """Return the tar members of one sample and its labeled pixels.

    Args:
        planned: names and hashes of the source.
        split: the split it belongs to, for its origin.
        options: layout, classes and the size wanted.
        image: content of the photo's file, or of the pair's.
        label: content of the label's file; None for `pairs` and `photos`.

    Returns:
        `{"jpg", "png", "json"}` → bytes, and pixels of each class, int64 (K,); K = 0 for image pairs.

    Raises:
        SampleError: the files are broken, don't belong together, or have no labeled pixel.
    """
    photo = open_image(image, "the photo")
    size = photo.size
    if options.layout == PHOTOS:
        truth = np.full(options.image_size, IGNORE_INDEX, np.uint8)
    elif label is None:
        photo, right = split_pair(photo)
        size = photo.size
        truth = ColorDecoder(options.labels).decode(nearest(np.asarray(right), options.image_size))
    else:
        what = "label" if options.classes else "target"
        mask = open_image(label, f"the {what}")
        if mask.size != size:
            raise SampleError(f"the photo is {_text(size)}, but its {what} {_text(mask.size)}")
        if options.classes:
            truth = decode_label(mask, options, colors=str(planned.label).endswith("_gtFine_color.png"))
        else:
            truth = np.asarray(_resized(mask, options.image_size))
    counts = np.bincount(truth.ravel(), minlength=256)[: len(options.classes)]
    if options.classes and not counts.any():
        raise SampleError("no labeled pixel")
    origin = {
        "source": planned.image,
        "label": planned.label,
        "split": split,
        "width": size[0],
        "height": size[1],
        "md5": planned.image_md5,
        "label_md5": planned.label_md5,
    }
    members = {
        "jpg": encode_photo(photo, options.image_size),
        "png": encode_label(truth),
        "json": json.dumps(origin, sort_keys=True).encode(),
    }
    return members, counts


def open_image(data: bytes, what: str) -> Image.Image:
    """Decode an image completely.

    Raises:
        SampleError: it is not one of `FORMATS`, too large, truncated or broken.
    """
    try:
        if (pixels := decode_png(data, MAX_PIXELS)) is not None:
            image = Image.fromarray(pixels)
            image.format = "PNG"
            return image
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise SampleError(f"{what} has {_text(image.size)} pixels: over {MAX_PIXELS} are refused")
        image.load()
        ImageOps.exif_transpose(image, in_place=True)  # labels are drawn on the photo as people see it
    except UnidentifiedImageError as error:
        raise SampleError(f"{what} is not an image ({', '.join(FORMATS)})") from error
    except _BROKEN as error:
        raise SampleError(f"{what} is broken: {error}") from error
    return image


def split_pair(image: Image.Image) -> tuple[Image.Image, Image.Image]:
    """Cut a pair into photo (left) and color label (right), both RGB.

    Raises:
        SampleError: the image is not exactly twice as wide as high.
    """
    width, height = image.size
    if width != 2 * height:
        raise SampleError(f"the pair is {_text(image.size)}: not twice as wide as high")
    rgb = _rgb(image)
    return rgb.crop((0, 0, height, height)), rgb.crop((height, 0, width, height))


def decode_label(mask: Image.Image, options: PlanOptions, *, colors: bool) -> np.ndarray:
    """Return the train ids of a lossless label, at the size wanted: uint8 (H, W).

    Label files of `cityscapes` hold ids, or `colors`. Those of `folders` hold either: images with one
    channel are ids, images with several are colors, and a palette image is what its values fit. In a binary
    data set all values fit, so there it is colors only where the thing's color occurs and its id does not.

    Raises:
        SampleError: ids or colors are not in the list of classes.
    """
    decoder = ColorDecoder(options.labels)
    one_channel = mask.mode in ("1", "L", "P", "I") or mask.mode.startswith("I;16")
    if options.layout == "cityscapes" and not colors and not one_channel:
        raise SampleError(f"the label is no id image: its mode is {mask.mode}")
    if one_channel and not colors:
        ids = nearest(np.asarray(mask), options.image_size).astype(np.int64)
        if thing := only_thing(options.labels):
            if mask.mode != "P" or (ids == thing.id).any() or not _has_color(mask, thing):
                return np.where((ids >= 0) & (ids <= 255), id_table(options.labels)[ids.clip(0, 255)], np.uint8(1))
            return decoder.decode_exact(nearest(np.asarray(_rgb(mask)), options.image_size))
        unknown = unknown_ids(ids, options.labels)
        if not unknown:
            return id_table(options.labels)[ids]
        if mask.mode != "P" or options.layout == "cityscapes":
            raise SampleError(f"the label has ids that no class has: {', '.join(map(str, unknown[:5]))}")
    return decoder.decode_exact(nearest(np.asarray(_rgb(mask)), options.image_size))


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


def encode_photo(photo: Image.Image, size: tuple[int, int]) -> bytes:
    """Resize a photo to `size` (height, width), antialiased, and encode it as JPEG."""
    out = io.BytesIO()
    _resized(photo, size).save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue()


def encode_label(truth: np.ndarray) -> bytes:
    """Encode train ids, uint8 (H, W), or a target image, uint8 (H, W, 3), as 8-bit PNG without a palette."""
    out = io.BytesIO()
    Image.fromarray(truth).save(out, "PNG", compress_level=PNG_LEVEL)
    return out.getvalue()


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return _rgb(image).resize((size[1], size[0]), Image.Resampling.BICUBIC)


def _has_color(image: Image.Image, label: Label) -> bool:
    return bool((np.asarray(_rgb(image)) == label.color).all(-1).any())


def _rgb(image: Image.Image) -> Image.Image:
    try:
        return to_rgb(image)
    except _BROKEN as error:
        raise SampleError(f"an image of mode {image.mode} can't be turned into RGB") from error


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
