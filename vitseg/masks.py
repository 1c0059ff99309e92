"""Mask files: palette PNGs whose pixel index is the class id, with their provenance as text.

Such a file opens in colors in any viewer and reads as ids in any library:
`numpy.asarray(PIL.Image.open("mask.png"))` is the uint8 (H, W) array of ids. The provenance (source etag, model, options)
is in text chunks of the PNG (https://www.w3.org/TR/png-3/#11textinfo), so it survives in stores that keep no metadata.
Models without classes write RGB PNGs with the same text.
"""

import io
import zlib
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vitseg.errors import DataError, UsageError
from vitseg.images.formats import read_header
from vitseg.labels import Label
from vitseg.labels import palette as train_palette

# Masks are runs of one class: with Z_RLE they become a sixth smaller than with level 4 in less than half the time. Level 9
# gets as small, but takes ten to fifty times as long.
_RUN_LENGTHS = {"compress_level": 1, "compress_type": zlib.Z_RLE}
# Of pictures: half the bytes of level 1 for 15 % more time.
_PICTURE_LEVEL = 4
_JPEG_QUALITY = 90
_JPEG_SIDE = 65_500  # libjpeg writes no longer ones


def mask_ids(classes: tuple[Label, ...], ids: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the id in mask files of each train id, uint8 (K,), and the color of each id there, uint8 (256, 3).

    `ids` are `train`, train ids 0 … K-1, or `label`, the ids of the data set's label files.

    Raises:
        UsageError: `label` with classes whose label ids don't fit into 8 bits, or are not unique.
    """
    if ids == "train":
        return np.arange(len(classes), dtype=np.uint8), train_palette(classes)
    numbers = [label.id for label in classes]
    if len(set(numbers)) != len(numbers) or not all(0 <= number <= 255 for number in numbers):
        raise UsageError(f"this model's label ids {numbers} can't be written as a mask: use --ids train")
    return np.array(numbers, np.uint8), train_palette(classes, numbers)


def renumber(ids: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return the ids in the file of train ids uint8 (H, W), by `numbers` from `mask_ids`; without a copy if equal."""
    if np.array_equal(numbers, np.arange(len(numbers))):
        return ids
    table = np.zeros(256, np.uint8)
    table[: len(numbers)] = numbers
    return np.asarray(Image.fromarray(ids).point(table.tolist()))


def encode_mask(ids: np.ndarray, palette: np.ndarray, metadata: dict[str, str]) -> bytes:
    """Encode ids uint8 (H, W) as an 8-bit PNG with a palette uint8 (256, 3) and metadata, which is any Unicode text."""
    return _encode(_with_palette(ids, palette), metadata, _RUN_LENGTHS)


def encode_colors(colors: np.ndarray, metadata: dict[str, str]) -> bytes:
    """Encode an image uint8 (H, W, 3) as 8-bit RGB PNG, with metadata as in `encode_mask`."""
    return _encode(Image.fromarray(colors), metadata, {"compress_level": _PICTURE_LEVEL})


def _with_palette(ids: np.ndarray, palette: np.ndarray) -> Image.Image:
    image = Image.fromarray(ids)
    image.putpalette(palette.tobytes())  # turns mode L into P
    return image


def _encode(image: Image.Image, metadata: dict[str, str], compression: dict[str, Any]) -> bytes:
    text = PngInfo()
    for name, value in metadata.items():
        text.add_text(name, value)  # tEXt if Latin-1 is enough, else iTXt (UTF-8)
    return _saved(image, "PNG", pnginfo=text, **compression)


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def read_mask_metadata(data: bytes) -> dict[str, str]:
    """Return the metadata of a mask without decoding its pixels.

    Raises:
        DataError: these bytes are not a PNG.
    """
    return _metadata(_open(data))


def is_mask(data: bytes) -> bool:
    """Return whether these bytes are a mask that a job wrote, and so no photograph."""
    try:
        image = _open(data)
    except DataError:
        return False
    return image.mode == "P" and _metadata(image).keys() >= {"source-etag", "model-sha256"}


def decode_mask(data: bytes, *, colors: bool = False) -> tuple[np.ndarray, dict[str, str]]:
    """Return the ids uint8 (H, W), or the `colors` uint8 (H, W, 3) that `encode_colors` wrote, and the metadata.

    Raises:
        DataError: these bytes are not a whole 8-bit palette PNG, or RGB PNG.
    """
    image = _decoded(data, "RGB" if colors else "P")
    return np.asarray(image), _metadata(image)


def mask_preview(data: bytes, size: tuple[int, int]) -> Image.Image:
    """Return a mask in its own colors, RGB, scaled to `size` (width, height) without mixing pixels.

    Raises:
        DataError: these bytes are not a whole 8-bit palette PNG.
    """
    return _decoded(data, "P").resize(size, Image.Resampling.NEAREST).convert("RGB")


def _decoded(data: bytes, mode: str) -> Image.Image:
    image = _open(data)
    if image.mode != mode:
        raise DataError(f"a mask or image of a job is a PNG of mode {mode}; this one has mode {image.mode}")
    try:
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"the mask can't be decoded: {error}") from error
    return image


def _open(data: bytes) -> Image.Image:
    try:
        image = read_header(data, ("PNG",))
    except (OSError, ValueError) as error:
        raise DataError(f"not a mask: {error}") from error
    if image is None:
        raise DataError("not a mask: it is no PNG")
    return image


def _metadata(image: Image.Image) -> dict[str, str]:
    return {str(name): str(value) for name, value in image.info.items() if isinstance(value, str)}


def class_fractions(ids: np.ndarray, numbers: np.ndarray) -> tuple[float, ...]:
    """Return the share of each class, by train id, of ids uint8 (H, W) as in a file, by `numbers` from `mask_ids`."""
    counts = np.array(Image.fromarray(ids).histogram())  # numpy's would first take 8 bytes a pixel
    return tuple(float(share) for share in counts[numbers] / ids.size)


def colorize(ids: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Return the colors uint8 (H, W, 3) of ids uint8 (H, W) by a palette uint8 (256, 3)."""
    return np.asarray(_with_palette(ids, palette).convert("RGB"))


def overlay(photo: np.ndarray, ids: np.ndarray, palette: np.ndarray, opacity: float = 0.5) -> np.ndarray:
    """Return a photo uint8 (H, W, 3) blended with the colors of its ids; `opacity`: 0 (photo only) – 1 (colors only)."""
    colors = Image.fromarray(colorize(ids, palette))
    return np.asarray(Image.blend(Image.fromarray(photo), colors, opacity))


def confidence_image(confidence: np.ndarray) -> np.ndarray:
    """Return probabilities float (H, W), 0–1, as gray uint8 (H, W): 255 is certain."""
    return np.rint(np.clip(confidence, 0, 1) * np.float32(255)).astype(np.uint8)


def encode_picture(picture: np.ndarray, kind: str) -> bytes:
    """Encode a picture uint8 (H, W) or (H, W, 3) as `png` or `jpg` (which is scaled down to sides of 65,500)."""
    image = Image.fromarray(picture)
    if kind == "png":
        return _saved(image, "PNG", compress_level=_PICTURE_LEVEL)
    image.thumbnail((_JPEG_SIDE, _JPEG_SIDE))
    return _saved(image, "JPEG", quality=_JPEG_QUALITY)
