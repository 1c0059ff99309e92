"""What the file of a label says beside its pixels: palette, bits, pages, and whether the format keeps values."""

import contextlib
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from vitseg.images.decode import broken_images
from vitseg.images.png import chunk

_LOSSY = ("JPEG", "MPO", "AVIF", "JPEG2000")
_LOSSY_IN_TIFF = {6: "JPEG in TIFF", 7: "JPEG in TIFF", 50001: "WebP in TIFF"}
"""By the compression; others that change values (JPEG 2000, SGI Log) are not decoded."""
_SUBFILE_TYPE, _BITS, _COMPRESSION = 254, 258, 259  # tags of TIFF; the type is not 0 of previews and transparency
_WITH_PAGES = ("TIFF", "GIF", "WEBP")
_MAX_PAGES = 256


@dataclass(frozen=True)
class LabelFile:
    """What is known of a label beside its pixels."""

    bits: int
    """A value's bits as stored: decoders spread fewer than 8 over 0–255, and cut some 16 down to 8. 8 of a palette's index."""
    one_channel: bool
    """Whether it is gray, without alpha or palette."""
    lossy: str = ""
    """The format, if it changes values."""
    clear: bytes = b""
    """The alpha of a palette's first entries."""


def label_file(header: Image.Image, data: bytes) -> LabelFile:
    """Return what a file says; `header` is its image, of which nothing is decoded yet."""
    one_channel = header.mode in ("1", "L", "F") or header.mode.startswith("I")
    return LabelFile(_stored_bits(header, data), one_channel, _lossy_format(header, data), _clear(header, data))


def palette_colors(image: Image.Image) -> np.ndarray:
    """Return the colors of a palette, uint8 (256, 3); of entries that it lacks black."""
    colors = np.zeros((256, 3), np.uint8)
    given = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    colors[: len(given)] = given
    return colors


def has_pages(kind: str | None, data: bytes) -> bool:
    """Return whether an image has a second page or frame of the first's size; smaller ones are previews."""
    if kind == "PNG":
        return int.from_bytes(chunk(data, b"acTL")[:4]) > 1
    if kind not in _WITH_PAGES:
        return False
    with broken_images(), contextlib.suppress(EOFError):  # it has no more
        image = Image.open(io.BytesIO(data), formats=[kind])
        size = image.size
        for page in range(1, _MAX_PAGES):
            image.seek(page)
            if image.size == size and not getattr(image, "tag_v2", {}).get(_SUBFILE_TYPE, 0):
                return True
    return False


def _clear(header: Image.Image, data: bytes) -> bytes:
    if header.format == "PNG":  # the decoder leaves this chunk out
        return chunk(data, b"tRNS")[:256]
    entry = header.info.get("transparency")
    return b"\xff" * (entry & 255) + b"\0" if header.format == "GIF" and isinstance(entry, int) else b""


def _stored_bits(header: Image.Image, data: bytes) -> int:
    if header.mode in ("P", "PA"):
        return 8
    if header.mode == "1":
        return 1
    if header.format == "PNG":
        return data[24]  # in its header: https://www.w3.org/TR/png-3/#11IHDR
    bits = max(getattr(header, "tag_v2", {}).get(_BITS, (8,)))
    return bits if bits in (2, 4, 16) else 8


def _lossy_format(header: Image.Image, data: bytes) -> str:
    if header.format == "WEBP":
        return "" if _has_riff_chunk(data, b"VP8L") else "WEBP"
    if header.format == "TIFF":
        return _LOSSY_IN_TIFF.get(getattr(header, "tag_v2", {}).get(_COMPRESSION, 1), "")
    return header.format if header.format in _LOSSY else ""


def _has_riff_chunk(data: bytes, name: bytes) -> bool:
    place = 12
    while place < len(data) and data[place : place + 4] != name:
        length = int.from_bytes(data[place + 4 : place + 8], "little")
        place += 8 + length + length % 2
    return place < len(data)
