"""JPEG to pixels by libjpeg-turbo itself (simplejpeg): the same pixels as Pillow's, without its copies.

It says what it notices, which Pillow keeps to itself: so every JPEG is decoded here once, also one that Pillow then
decodes. What it says of the compressed pixels (they end too soon, a code is wrong, bytes are left over) is damage. What
it says of the segments before them (bytes between them, a revision that it doesn't know) changes no pixel.
"""

import re

import numpy as np
import simplejpeg

from vitseg.errors import SampleError

START = b"\xff\xd8\xff"
_COLORS = ("YCbCr", "RGB", "Gray")
_UNUSUAL = "Could not determine subsampling"  # how it refuses layouts of colors that it has no name for
_MARKER = re.compile(rb"\xff+([^\xff\x00\x01\xd0-\xd9])", re.DOTALL)  # of a segment that has a length
_SCAN = 0xDA
_KEPT = frozenset({*range(0xC0, 0xD0), 0xDB, 0xDD, 0xE0, 0xE1, 0xEE})  # what says pixels, JFIF, EXIF, Adobe
_SMALLEST = 8
"""Pixels in one of the smallest decoded image, a side: of its compressed pixels all are read."""


def decode_jpeg(data: bytes, size: tuple[int, int]) -> np.ndarray | None:
    """Decode a JPEG of `size` (H, W) as it is stored: uint8 (H, W, 3) or, gray, (H, W); None where Pillow must decode it.

    Raises:
        SampleError: it is damaged.
    """
    if not data.startswith(START):
        return None
    try:
        return _decode(data, size)
    except ValueError as error:
        if _UNUSUAL in str(error):  # Pillow reads these; what libjpeg notices in them stays unknown
            return None
    try:
        return _decode(keep_pixels(data), size)
    except ValueError as error:
        raise SampleError(f"the image is broken: {error}") from error


def check_jpeg(data: bytes) -> None:
    """Do what `decode_jpeg` does, for nothing but its errors, in half the time."""
    decode_jpeg(data, (0, 0))


def _decode(data: bytes, size: tuple[int, int]) -> np.ndarray | None:
    height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
    if (height, width) == size and colors in _COLORS:
        pixels = simplejpeg.decode_jpeg(data, "GRAY" if colors == "Gray" else "RGB")
        return pixels[..., 0] if colors == "Gray" else pixels
    simplejpeg.decode_jpeg(data, "RGB" if colors in _COLORS else "CMYK", min_factor=_SMALLEST)
    return None


def keep_pixels(data: bytes) -> bytes:
    """Return a JPEG without the bytes and segments before its first scan that say nothing of pixels or orientation."""
    kept, place = [data[:2]], 2
    while found := _MARKER.search(data, place):
        marker, place = found[1][0], found.end()
        if marker == _SCAN:
            return b"".join([*kept, data[place - 2 :]])
        end = place + int.from_bytes(data[place : place + 2])
        if marker in _KEPT:
            segment = data[place - 2 : end]
            known = segment[4:9] == b"JFIF\0"
            kept.append(segment[:9] + b"\1" + segment[10:] if known else segment)
        place = end
    return data
