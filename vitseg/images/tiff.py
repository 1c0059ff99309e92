"""What Pillow doesn't say of a TIFF, or reads otherwise than it is meant.

libtiff prints what it notices on the terminal, and Pillow keeps only its number; its warnings are lost. So a compressed
TIFF is decoded here, by libtiff, too, but by that of imagecodecs, which hands on the words. Pillow decodes it once more
where its pixels are not plain colors or grays of 8 bits.
"""

import logging
import re
import struct
import threading
from collections.abc import Mapping
from typing import Any

import imagecodecs
import numpy as np
from PIL import ImageFile, ImagePalette

from vitseg.errors import SampleError

_SIZE = (256, 257)  # the tags, https://www.loc.gov/preservation/digital/formats/content/tiff_tags.shtml
_SUBFILE_TYPE, _BITS_PER_SAMPLE, _COMPRESSION, _PHOTOMETRIC, _PLANES = 254, 258, 259, 262, 284
_ORIENTATION, _SAMPLES, _COLOR_MAP, _SAMPLE_FORMAT, _DNG_VERSION = 274, 277, 320, 339, 50706
_TILE_SIZE = (322, 323)
_PLACES = ((273, 279), (324, 325))  # offsets and lengths of strips, and of tiles
_THUMBNAIL = 1
_SIGNED = 2
_SEPARATE = 2
_BYTE, _SHORT, _BYTE_MAX = 8, 16, 255
_PLAIN = {(1, "L", 1, 1): (), (2, "RGB", 1, 1): (3,)}
_ZIP = (8, 32946)
_DAMAGE = re.compile(r"Corrupt|Premature|Discarding|Terminating|Line length|Inconsistent|Bad ")
"""What libtiff's warnings about pixels begin with; most others are about tags."""
_MAX_NOTED = 99
_MOST_PACKED = 1100  # bytes that a byte of a ZIP stream becomes, and some more


class _Noted(logging.Handler):
    """What imagecodecs logs, by thread: nothing of it goes to the terminal."""

    def __init__(self) -> None:
        super().__init__()
        self.found = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        lines = getattr(self.found, "lines", [])
        if len(lines) < _MAX_NOTED:
            lines.append(record.getMessage())


_NOTED = _Noted()
_LOGGER = logging.getLogger("imagecodecs")
_LOGGER.addHandler(_NOTED)
_LOGGER.propagate = False


def check_header(image: ImageFile.ImageFile) -> None:
    """Refuse what Pillow would read as something else.

    Raises:
        SampleError: it is a raw photograph with a thumbnail, or its numbers can't be told.
    """
    tags = getattr(image, "tag_v2", {})
    bits = max(tags.get(_BITS_PER_SAMPLE, (1,)))
    if _DNG_VERSION in tags or tags.get(_SUBFILE_TYPE, 0) & _THUMBNAIL:
        raise SampleError("a raw photograph (DNG and others) is not read, only its preview: convert it to TIFF or JPEG")
    if _SIGNED in tags.get(_SAMPLE_FORMAT, ()) and bits <= _SHORT:
        raise SampleError(f"its {bits}-bit numbers have a sign, so that their white is not known: save it without")
    if tags.get(_PHOTOMETRIC) == 0 and image.mode not in ("1", "L"):
        raise SampleError("its white is 0 (MinIsWhite), which is read with 8 bits only: save it with black as 0")
    if tags.get(_PLANES) == _SEPARATE and bits > _BYTE and image.mode not in ("I", "F", "I;16", "I;16B"):
        raise SampleError(f"its {bits}-bit colors lie in separate planes, which is read with 8 bits only")


def decode_tiff(data: bytes, image: ImageFile.ImageFile) -> np.ndarray | None:
    """Decode a compressed TIFF as it is stored: uint8 (H, W, 3) or, gray, (H, W); None where Pillow must decode it.

    Raises:
        SampleError: it is damaged.
    """
    if not image.tile or image.tile[0].codec_name != "libtiff":
        return None  # of uncompressed pixels, Pillow itself says what is missing
    tags = image.tag_v2  # type: ignore[attr-defined]
    if not _has_one_size(data):
        raise SampleError("the image is broken: its size is there twice")
    pixels = None
    lines: list[str] = []
    _NOTED.found.lines = lines
    try:
        pixels = imagecodecs.tiff_decode(data, verbose=1)
        if tags.get(_COMPRESSION) in _ZIP:
            _check_sums(data, tags)
    except (imagecodecs.TiffError, imagecodecs.DeflateError) as error:
        raise SampleError(f"the image is broken: {error}") from error
    except (ValueError, NotImplementedError):  # a kind that imagecodecs doesn't read
        pass
    finally:
        del _NOTED.found.lines
    if damage := next((line for line in lines if _DAMAGE.match(line)), None):
        raise SampleError(f"the image is broken: {damage}")
    kind = (tags.get(_PHOTOMETRIC), image.mode, tags.get(_ORIENTATION, 1), tags.get(_PLANES, 1))
    shape = (image.height, image.width, *_PLAIN.get(kind, (0,)))
    return pixels if pixels is not None and (pixels.shape, pixels.dtype) == (shape, np.uint8) else None


def mend_palette(image: ImageFile.ImageFile) -> None:
    """Read a palette of 8-bit numbers as that: it should hold 16-bit numbers, but some programs don't know."""
    colors = getattr(image, "tag_v2", {}).get(_COLOR_MAP, ())
    if image.mode in ("P", "PA") and colors and max(colors) <= _BYTE_MAX:
        image.palette = ImagePalette.raw("RGB;L", bytes(colors))


def _check_sums(data: bytes, tags: Mapping[int, Any]) -> None:
    """Raise DeflateError where a checksum is wrong: libtiff may stop reading before it."""
    samples = tags.get(_SAMPLES, 1) * -(-max(tags.get(_BITS_PER_SAMPLE, (1,))) // 8)
    width, height = (tags.get(tile, tags.get(size, 0)) for tile, size in zip(_TILE_SIZE, _SIZE, strict=True))
    for offsets, lengths in _PLACES:
        for offset, length in zip(tags.get(offsets, ()), tags.get(lengths, ()), strict=False):
            imagecodecs.deflate_decode(
                data[offset : offset + length], out=min(width * height * samples, length * _MOST_PACKED)
            )


def _has_one_size(data: bytes) -> bool:
    """Return whether width and height are there once: else libtiff takes the first, and Pillow the last."""
    order = "<" if data[:2] == b"II" else ">"
    big = 43 in data[2:4]
    entry, first, count = ("20s", 8, "Q") if big else ("12s", 4, "H")
    (place,) = struct.unpack_from(order + ("Q" if big else "I"), data, first)
    (entries,) = struct.unpack_from(order + count, data, place)
    start = place + struct.calcsize(order + count)
    size = struct.calcsize(entry)
    found = [data[at : at + 2] for at in range(start, min(start + entries * size, len(data)), size)]
    return all(found.count(struct.pack(order + "H", tag)) == 1 for tag in _SIZE)
