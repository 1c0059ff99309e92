"""JPEG to pixels by libjpeg-turbo itself (simplejpeg): the same pixels as Pillow's, without its copies.

It says what it notices, which Pillow keeps to itself: so every JPEG is decoded here once, also one that Pillow then
decodes. What it says of the compressed pixels is damage (they end too soon, a code is wrong, bytes are left over). What it
says of the segments before them is not (a revision that it doesn't know, a broken color profile, bytes between them),
unless bytes are left over in a table that pixels are read with.
"""

import re
from collections.abc import Iterator

import imagecodecs
import numpy as np
import simplejpeg

from vitseg.errors import SampleError

START = b"\xff\xd8\xff"
_COLORS = ("YCbCr", "RGB", "Gray")
_UNUSUAL = "Could not determine subsampling"  # how it refuses layouts of colors that it has no name for
_MARKER = re.compile(rb"\xff+([^\xff\x00\x01\xd0-\xd9])", re.DOTALL)  # of a segment that has a length
_IN_SCANS = re.compile(rb"\xff[^\xff\x00\xd0-\xd7]", re.DOTALL)  # a marker that is none of pixels
_SCAN, _END = 0xDA, 0xD9
_PROGRESSIVE = (0xC2, 0xCA)
_MOST_SCANS = 100
"""Of a progressive JPEG: each is a pass over all pixels, and takes as few as 31 bytes. Ten are usual."""
_OF_PIXELS = frozenset({*range(0xC0, 0xD0), 0xDB, 0xDD})
_OF_COLORS = frozenset({0xE0, 0xE1, 0xEE})  # JFIF, EXIF, Adobe
_MORE = b"\x55" * 16
_SMALLEST = 8
"""Pixels in one of the smallest decoded image, a side: of its compressed pixels all are read."""


def decode_jpeg(data: bytes, size: tuple[int, int]) -> np.ndarray | None:
    """Decode a JPEG of `size` (H, W) as it is stored: uint8 (H, W, 3) or, gray, (H, W); None where Pillow must decode it.

    Raises:
        SampleError: it is damaged.
    """
    if not data.startswith(START):
        return None
    is_progressive = any(marker in _PROGRESSIVE for marker, _, _ in _segments(data))
    if is_progressive and data.count(bytes([0xFF, _SCAN])) > _MOST_SCANS:
        raise SampleError(f"its pixels are in more than {_MOST_SCANS} scans: save it anew")
    try:
        try:
            return _decode(data, size)
        except ValueError as error:
            if _UNUSUAL in str(error):
                _check_unusual(data)
                return None
            if (kept := keep_pixels(data)) == data:
                raise
        return _decode(kept, size)
    except (ValueError, imagecodecs.Jpeg8Error) as error:
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


def _check_unusual(data: bytes) -> None:
    """Raise ValueError for a damaged JPEG with a layout of colors that simplejpeg doesn't know.

    Nobody hears what libjpeg says of it. But bytes before the end marker may not be read as pixels, and the last bytes
    of the pixels must be.
    """
    start = next((start for marker, start, _ in _segments(data) if marker == _SCAN), len(data))
    place, scans = start, 0
    while (found := _IN_SCANS.search(data, place)) and found[0][1] != _END:
        scans += found[0][1] == _SCAN
        place = found.end() + int.from_bytes(data[found.end() : found.end() + 2])
    if not found:
        raise ValueError("Premature end of JPEG file")
    end = found.start()
    pixels = imagecodecs.jpeg8_decode(data)
    if not np.array_equal(imagecodecs.jpeg8_decode(data[:end] + _MORE + data[end:]), pixels):
        raise ValueError("premature end of data segment")
    if scans > 1:  # the last may only refine, so that its end changes nothing
        return
    if np.array_equal(imagecodecs.jpeg8_decode(data[: max(place, end - len(_MORE))] + data[end:]), pixels):
        raise ValueError("extraneous bytes before the end marker")


def keep_pixels(data: bytes) -> bytes:
    """Return a JPEG without the bytes and segments before its first scan that say nothing of pixels or orientation.

    Bytes behind a segment that says pixels stay: they are what is left over of its tables.
    """
    kept, last, behind = [data[:2]], 0, 2
    for marker, start, end in _segments(data):
        if last in _OF_PIXELS:
            kept.append(data[behind:start])
        if marker == _SCAN:
            return b"".join([*kept, data[start:]])
        if marker in _OF_PIXELS | _OF_COLORS:
            segment = data[start:end]
            kept.append(segment[:9] + b"\1" + segment[10:] if segment[4:9] == b"JFIF\0" else segment)
        last, behind = marker, end
    return data


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, place and end of each segment up to that of the first scan."""
    place, marker = 2, 0
    while marker != _SCAN and (found := _MARKER.search(data, place)):
        marker, place = found[1][0], found.end() + int.from_bytes(data[found.end() : found.end() + 2])
        yield marker, found.end() - 2, place
