"""Which formats of images are read, and which objects may be images at all, before they are decoded.

Only formats that photographs come in are opened, and each by a decoder inside Pillow: nothing that runs PostScript
or guesses.
"""

import io
from pathlib import PurePosixPath

from PIL import Image, ImageFile

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
"""JPEG includes MPO, the stereo files of some cameras."""
_EXTENSIONS = """
.jpg .jpeg .jpe .jfif .mpo .png .apng .webp .tif .tiff .bmp .gif .pbm .pgm .pnm .ppm .pfm .avif .avifs
.jp2 .j2c .j2k .jpc .jpf .jpx
"""
EXTENSIONS = frozenset(_EXTENSIONS.split())
"""Extensions of these formats, however Pillow was built: what a source holds must not depend on it."""
SNIFFED_BYTES = 64
"""Bytes at the start of an object that tell most others from images."""

# Pillow's own limit is one number for the whole process, and half of what we allow. TIFF and WebP check it even where
# `Image.open` is not used, so it is lifted here, once, for everything that decodes: each call below has its limit.
Image.MAX_IMAGE_PIXELS = None

_UNREADABLE = frozenset({".heic", ".heif", ".tga", ".psd", ".dng"})  # images, too, which can only fail
_LARGEST_UNNAMED = 64 * 2**20  # bytes; larger objects without an image's name are not read


def has_image_name(key: str) -> bool:
    """Return whether the extension of a key promises an image, if only one of a format that isn't read."""
    return PurePosixPath(key).suffix.lower() in EXTENSIONS | _UNREADABLE


def may_be_read(key: str, size: int, max_pixels: int) -> bool:
    """Return whether an object of `size` bytes is small enough to be an image: 8 bytes a pixel are 16-bit RGBA."""
    return size <= (max(8 * max_pixels, _LARGEST_UNNAMED) if has_image_name(key) else _LARGEST_UNNAMED)


def may_be_image(start: bytes) -> bool:
    """Return whether the first `SNIFFED_BYTES`, or all of a shorter object, may begin a format that is read."""
    return any(_accepts(name, start) for name in FORMATS)


def is_image(data: bytes) -> bool:
    """Return whether the header is one of a format that is read."""
    try:
        return read_header(data) is not None
    except Exception:  # noqa: BLE001 - on foreign bytes decoders raise anything; all of it means no
        return False


def read_header(data: bytes, formats: tuple[str, ...] = FORMATS) -> ImageFile.ImageFile | None:
    """Return an image whose header is read and whose pixels are not; None where no format fits.

    Raises:
        Exception: on damaged headers, decoders raise anything.
    """
    for name in formats:
        if _accepts(name, data):
            try:
                return Image.OPEN[name][0](io.BytesIO(data), "")
            except SyntaxError:  # the decoder's way to tell that the format is another
                continue
    return None


def _accepts(name: str, start: bytes) -> bool:
    if name not in Image.OPEN:
        Image.init()
    accepts = Image.OPEN[name][1] if name in Image.OPEN else lambda _: False
    return accepts is None or accepts(start[:SNIFFED_BYTES]) is True
