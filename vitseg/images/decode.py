"""Bytes from outside → one upright image, whatever camera or program wrote them.

Neither the extension nor the size in the header is believed before it is checked.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageFile, ImageOps

from vitseg.errors import SampleError
from vitseg.images.formats import FORMATS, read_header
from vitseg.images.png import decode_png

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
"""What makes an image upright, by its EXIF orientation."""
ON_ITS_SIDE = 5
"""From this orientation on, stored rows are columns of the upright image."""
LARGE_PIXELS = 16_000_000
"""Images over that are held one at a time."""

_ORIENTATION = 0x0112  # the EXIF tag, https://exiv2.org/tags.html
_DNG_VERSION = 50706  # the TIFF tag
_ONE_LARGE = threading.RLock()


@contextmanager
def one_large(pixels: int) -> Iterator[None]:
    """Wait until this process holds no other large image; small ones don't wait."""
    if pixels <= LARGE_PIXELS:
        yield
        return
    with _ONE_LARGE:
        yield


@contextmanager
def broken_images() -> Iterator[None]:
    """Turn whatever a decoder raises into a SampleError."""
    try:
        yield
    except (SampleError, MemoryError):  # memory is the machine's fault, not the image's
        raise
    except Exception as error:  # on hostile bytes decoders raise anything
        raise SampleError(f"the image is broken: {error or type(error).__name__}") from error


def open_image(data: bytes, max_pixels: int) -> ImageFile.ImageFile:
    """Read the header of an image; SampleError if it is empty, of a foreign format or too large."""
    if not data:
        raise SampleError("the object is empty")
    try:
        image = read_header(data)
    except Exception:  # noqa: BLE001 - on hostile bytes decoders raise anything
        image = None
    if image is None:
        raise SampleError(f"not an image in a format that is read ({', '.join(FORMATS)})")
    if _DNG_VERSION in getattr(image, "tag_v2", {}):  # Pillow reads only its thumbnail
        raise SampleError("a raw photograph (DNG) is not read: convert it to TIFF or JPEG")
    if image.width * image.height > max_pixels:
        raise SampleError(f"{image.width}x{image.height} pixels: over {max_pixels} are refused")
    return image


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an image as stored: 1 (upright) – 8."""
    found = image.getexif().get(_ORIENTATION, 1)
    return found if found in TURNS else 1


def decode_stored(data: bytes, max_pixels: int) -> Image.Image:
    """Decode one image and turn it upright, in the mode that it is stored in: labels keep their ids.

    Raises:
        SampleError: it is empty, of a foreign format, too large, cut off or broken.
    """
    pixels = decode_png(data, max_pixels)
    if pixels is not None:
        image = Image.fromarray(pixels)
        image.format = "PNG"
        return image
    return _upright(open_image(data, max_pixels))


def decode_image(data: bytes, max_pixels: int, *, enough: tuple[int, int] | None = None) -> Image.Image:
    """Decode one image as people see it: RGB, upright.

    Of animations and stacks the first picture counts. Alpha is dropped. 16-bit values are divided by 257; floats are
    taken as 0–1 where none is over 1, else as 0–255. For previews, `enough` is the (width, height) down to which a JPEG
    may be decoded at a half, quarter or eighth. Raises what `decode_stored` raises.
    """
    image: Image.Image
    if enough:
        header = open_image(data, max_pixels)
        header.draft(None, enough)
        image = _upright(header)
    else:
        image = decode_stored(data, max_pixels)
    with broken_images():
        return to_rgb(image)


def _upright(image: ImageFile.ImageFile) -> Image.Image:
    with broken_images():
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return image


def to_rgb(image: Image.Image, scale: float | None = None) -> Image.Image:
    """Turn an image of any mode into RGB; floats are multiplied by `scale`, by default by their `float_scale`."""
    if image.mode.startswith("I"):  # I;16 and friends; I holds 16-bit values, too
        values = np.clip(np.asarray(image).astype(np.int32), 0, 65_535)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        floats = np.nan_to_num(np.asarray(image))
        scale = scale or float_scale(image)
        return Image.fromarray(np.clip(floats * scale, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "P":
        image = image.convert("RGBA")  # straight to RGB, Pillow warns about palettes with transparency
    return image if image.mode == "RGB" else image.convert("RGB")


def float_scale(image: Image.Image) -> float:
    """Return the factor that makes bytes of floats: 255 where none is over 1, else 1."""
    values = np.asarray(image)  # getextrema would take a NaN for the largest
    return 255.0 if np.nanmax(values, initial=0.0, where=np.isfinite(values)) <= 1 else 1.0
