"""Bytes from outside → one upright image, whatever camera or program wrote them.

Neither the extension nor the size in the header is believed before it is checked.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import imagecodecs
import numpy as np
from PIL import Image, ImageFile

from vitseg.errors import SampleError
from vitseg.images import png, tiff
from vitseg.images.formats import FORMATS, foreign_format, read_header
from vitseg.images.jpeg import check_jpeg, decode_jpeg
from vitseg.images.numbers import stored_bits, to_bytes, white_level

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
_JPEG_2000 = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
_JPEG_2000_END = b"\xff\xd9"  # which is nowhere among its pixels
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
    """Read the header of an image; metadata that can't be read are no reason to refuse it.

    Raises:
        SampleError: it is empty, of a foreign format or too large, or its header is broken.
    """
    if not data:
        raise SampleError("the object is empty")
    if name := foreign_format(data):
        raise SampleError(f"{name} images are not read: convert it to PNG or JPEG")
    with broken_images():
        image = read_header(_keep_pixels(data))
        if image is not None:
            tiff.check_header(image)
    if image is None:
        raise SampleError(f"not an image in a format that is read ({', '.join(FORMATS)})")
    if image.width * image.height > max_pixels:
        raise SampleError(f"{image.width}x{image.height} pixels: over {max_pixels} are refused")
    return image


def _keep_pixels(data: bytes) -> bytes:
    """Return an image without what changes no pixel, where a decoder could stumble over it."""
    if data.startswith(png.START):
        return png.keep_pixels(data, header_only=True)
    if data.startswith(_JPEG_2000) and (end := data.rfind(_JPEG_2000_END) + 2) > 1:
        return data[:end]  # Pillow refuses bytes behind the end
    return tiff.keep_pixels(data)


class StoredPixels(NamedTuple):
    """An image as it is stored."""

    pixels: np.ndarray | Image.Image
    """uint8 (H, W), (H, W, 3) or (H, W, 4); those of other kinds are Pillow's image."""
    turn: int = 1
    """EXIF orientation: 1 (upright) – 8."""
    bits: int = 8
    """Of each color in the file: see `vitseg.images.numbers.stored_bits`."""


def decode_pixels(header: ImageFile.ImageFile, data: bytes) -> StoredPixels:
    """Decode an opened image as it is stored.

    Raises:
        SampleError: a decoder noticed damage, whether or not another overlooks it.
    """
    pixels: np.ndarray | Image.Image | None
    with broken_images():
        if (pixels := decode_jpeg(data, (header.height, header.width))) is not None:
            return StoredPixels(pixels, orientation(header))
        if (pixels := png.decode_png(data, header.width * header.height)) is not None:
            return StoredPixels(pixels)
        bits = stored_bits(header, data)
        png.check_png(data)
        tiff.mend_palette(header)
        pixels, turn = tiff.decode_tiff(data, header)
        if pixels is not None:
            return StoredPixels(pixels, turn if turn in TURNS else 1, bits)
        header.load()
        if header.format == "JPEG2000" and bits > 8 and not header.mode.startswith("I"):
            # Pillow rounds colors of more than 8 bits so that white becomes black.
            upper = imagecodecs.jpeg2k_decode(_keep_pixels(data)) >> bits - 8
            return StoredPixels(Image.fromarray(upper.astype(np.uint8)), orientation(header), bits)
        # Only now: Pillow turns TIFF itself, and finds EXIF behind pixels of PNG.
        return StoredPixels(header, orientation(header), bits)


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an image as stored: 1 (upright) – 8."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - on damaged EXIF anything; viewers show such photographs as they are stored
        return 1
    return found if found in TURNS else 1


def decode_stored(data: bytes, max_pixels: int) -> Image.Image:
    """Decode one image and turn it upright, in the mode that it is stored in: labels keep their ids.

    Raises:
        SampleError: it is empty, of a foreign format, too large, cut off or broken.
    """
    header = open_image(data, max_pixels)
    return _upright(decode_pixels(header, data), header.format)


def decode_image(data: bytes, max_pixels: int, *, enough: tuple[int, int] | None = None) -> Image.Image:
    """Decode one image as people see it: RGB, upright.

    Of animations and stacks the first picture counts. Alpha is dropped. Numbers of more than 8 bits are scaled by the
    rule of `vitseg.images.numbers`. For previews, `enough` is the (width, height) down to which a JPEG may be decoded
    at a half, quarter or eighth. Raises what `decode_stored` raises, and where numbers can't be scaled.
    """
    header = open_image(data, max_pixels)
    with broken_images():
        if enough and header.draft(None, enough):
            check_jpeg(data)
            header.load()
            stored = StoredPixels(header, orientation(header))
        else:
            stored = decode_pixels(header, data)
        white = 255.0 if isinstance(stored.pixels, np.ndarray) else white_level(stored.pixels, stored.bits)
        return to_rgb(_upright(stored, header.format), white)


def _upright(stored: StoredPixels, kind: str | None) -> Image.Image:
    image = Image.fromarray(stored.pixels) if isinstance(stored.pixels, np.ndarray) else stored.pixels
    upright = image.transpose(TURNS[stored.turn]) if stored.turn > 1 else image
    upright.format = kind
    return upright


def to_rgb(image: Image.Image, white: float | None = None) -> Image.Image:
    """Turn an image of any mode into RGB; `white` becomes 255 of numbers of more than 8 bits, by default their own."""
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(to_bytes(np.asarray(image), white or white_level(image))).convert("RGB")
    if image.mode == "P":
        image = image.convert("RGBA")  # straight to RGB, Pillow warns about palettes with transparency
    return image if image.mode == "RGB" else image.convert("RGB")
