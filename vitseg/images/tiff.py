"""What Pillow doesn't say of a TIFF, or reads otherwise than it is meant.

libtiff prints what it notices on the terminal, and Pillow keeps only its number; its warnings are lost. So a compressed
TIFF is decoded here, by libtiff, too, but by that of imagecodecs, which hands on the words. Pillow decodes it once more
where its numbers have fewer than 8 bits or 12, or its colors lie in planes or are YCbCr, or JPEG (whose strips jpeg.py checks).
"""

import logging
import math
import re
import struct
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import imagecodecs
import numpy as np
from PIL import Image, ImageFile, ImagePalette

from vitseg.errors import SampleError
from vitseg.images.jpeg import check_jpeg

_START = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SIZE = (256, 257)  # the tags, https://www.loc.gov/preservation/digital/formats/content/tiff_tags.shtml
_SUBFILE_TYPE, _BITS_PER_SAMPLE, _COMPRESSION, _PHOTOMETRIC, _PLANES = 254, 258, 259, 262, 284
_ORIENTATION, _SAMPLES, _COLOR_MAP, _SAMPLE_FORMAT, _DNG_VERSION = 274, 277, 320, 339, 50706
_TILE_SIZE = (322, 323)
_PLACES = ((273, 279), (324, 325))  # offsets and lengths of strips, and of tiles
_THUMBNAIL = 1
_SIGNED = 2
_ONE, _FLOAT, _FLOAT_BITS = b"\1", b"\3", (b" ", b"@")  # 32 and 64
_SEPARATE = 2
_BYTE, _SHORT, _BYTE_MAX = 8, 16, 255
_YCBCR, _JPEG = 6, 7
_JPEG_START, _TABLES = b"\xff\xd8", 347
_BEYOND = 2**31 - 1
_OF_PIXELS = frozenset(
    {254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 332, 338}
    | {339, 347, 512, 513, 514, 515, 519, 520, 521, 529, 530, 531, 532, 50706}
)
_FIRST = {"H": 4, "Q": 8}
"""Where a TIFF and a BigTIFF say where their first directory is."""
_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}  # of a value, by its type
_ZIP = (8, 32946)
_DAMAGE = re.compile(r"Premature|Discarding|Terminating|Line length|Bad ")
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


def keep_pixels(data: bytes) -> bytes:
    """Return a TIFF without the tags that change no pixel, which make Pillow and libtiff print what is odd in them.

    `data` itself where pixels are not compressed, so that libtiff is not asked, and where it is of another format.

    Raises:
        SampleError: what says pixels lies behind the end, or is there twice: libtiff takes the first, Pillow the last;
            or its floats are of a kind that Pillow doesn't read.
    """
    if data[:4] not in _START:
        return data
    if data[:4] == b"MM\0+":
        raise SampleError("a BigTIFF of big-endian order is not read: save it as TIFF, or in little-endian order")
    kept: dict[int, int] = {}
    values: dict[int, bytes] = {}  # the first of each tag, where it is of one byte
    for tag, start, place, size in _entries(data):
        if tag not in _OF_PIXELS:
            continue
        if place + size > len(data):
            raise SampleError(f"the image is broken: it is cut off, the values of its tag {tag} are missing")
        if tag in kept:
            raise SampleError(f"the image is broken: its tag {tag} is there twice")
        kept[tag] = start
        values[tag] = data[place : place + 2].strip(b"\0")
    if values.get(_SAMPLE_FORMAT) == _FLOAT and (
        values.get(_SAMPLES, _ONE) != _ONE or values.get(_BITS_PER_SAMPLE) not in _FLOAT_BITS
    ):
        raise SampleError("floats of several channels, or of 16 bits, are not read: save whole numbers of 8 or 16 bits")
    if values.get(_COMPRESSION, _ONE) == _ONE:
        return data
    order, counted, entry, offset = _layout(data)
    (first,) = struct.unpack_from(order + offset, data, _FIRST[counted])
    entries = (data[start : start + struct.calcsize(order + entry)] for start in kept.values())
    directory = b"".join([struct.pack(order + counted, len(kept)), *entries, bytes(struct.calcsize(offset))])
    return data[:first] + directory + data[first + len(directory) :]


def _layout(data: bytes) -> tuple[str, str, str, str]:
    """Return the order of bytes, and the `struct` formats of a count of tags, of a tag and of an offset."""
    return "<" if data[:2] == b"II" else ">", *(("Q", "HHQQ", "Q") if 43 in data[2:4] else ("H", "HHII", "I"))


def _entries(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield each tag of the first directory, its place, and the place and bytes of its values."""
    order, counted, entry, offset = _layout(data)
    inline = struct.calcsize(offset)
    (first,) = struct.unpack_from(order + offset, data, _FIRST[counted])
    (entries,) = struct.unpack_from(order + counted, data, first)
    size = struct.calcsize(order + entry)
    for start in range(first + struct.calcsize(counted), first + struct.calcsize(counted) + entries * size, size):
        if start + size > len(data):
            raise SampleError("the image is broken: it is cut off in its directory")
        tag, kind, count, place = struct.unpack_from(order + entry, data, start)
        length = count * _BYTES.get(kind, 1)
        yield tag, start, place if length > inline else start + size - inline, length


def check_header(image: ImageFile.ImageFile) -> None:
    """Refuse what Pillow would read as something else.

    Raises:
        SampleError: it is a raw photograph with a preview, or its numbers can't be told.
    """
    if not hasattr(image, "tag_v2"):
        return
    tags = image.tag_v2
    bits = max(tags.get(_BITS_PER_SAMPLE, (1,)))
    kind = tags.get(_SUBFILE_TYPE, 0)
    if _DNG_VERSION in tags or (isinstance(kind, int) and kind & _THUMBNAIL):
        raise SampleError("a raw photograph (DNG and others) is not read, only its preview: convert it to TIFF or JPEG")
    if _SIGNED in tags.get(_SAMPLE_FORMAT, ()) and bits <= _SHORT:
        raise SampleError(f"its {bits}-bit numbers have a sign, so that their white is not known: save it without")
    if tags.get(_PHOTOMETRIC) == 0 and image.mode not in ("1", "L"):
        raise SampleError("its white is 0 (MinIsWhite), which is read with 8 bits only: save it with black as 0")
    if tags.get(_PLANES) == _SEPARATE and bits > _BYTE and image.mode not in ("I", "F", "I;16", "I;16B"):
        raise SampleError(f"its {bits}-bit colors lie in separate planes, which is read with 8 bits only")


def decode_tiff(data: bytes, image: ImageFile.ImageFile) -> tuple[np.ndarray | Image.Image | None, int]:
    """Decode a compressed TIFF as it is stored, and return its orientation, too; None where Pillow must decode it.

    Pixels are uint8 (H, W, 3) or, gray, (H, W); those of other modes Pillow's image.

    Raises:
        SampleError: it is damaged.
    """
    if not image.tile or image.tile[0].codec_name != "libtiff":
        return None, 1  # of uncompressed pixels, Pillow itself says what is missing
    tags = image.tag_v2  # type: ignore[attr-defined]
    if tags.get(_COMPRESSION) == _JPEG:
        for stream in _streams(data, tags):
            check_jpeg(_JPEG_START + tags.get(_TABLES, b"")[2:-2] + stream[2:])
        return None, 1
    pixels = None
    lines: list[str] = []
    _NOTED.found.lines = lines
    try:
        pixels = imagecodecs.tiff_decode(_as_gray(data) if image.mode == "CMYK" else data, verbose=1)
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
    turn = tags.get(_ORIENTATION, 1)
    bits, samples = max(tags.get(_BITS_PER_SAMPLE, (1,))), tags.get(_SAMPLES, 1)
    shape = (tags.get(_SIZE[1]), tags.get(_SIZE[0]), *((samples,) if samples > 1 else ()))
    if pixels is None or tags.get(_PHOTOMETRIC) == _YCBCR or tags.get(_PLANES, 1) == _SEPARATE:
        return None, 1
    if pixels.shape != shape or 8 * pixels.itemsize != bits:  # its numbers are less than a byte in the file
        return None, 1
    if image.mode == "F":
        return Image.fromarray(pixels), turn
    if image.mode == "I":
        return Image.fromarray(pixels.clip(-1, _BEYOND).astype(np.int32)), turn
    rawmode = str(image.tile[0].args[0])  # type: ignore[index]
    if image.mode == rawmode and image.mode in ("L", "RGB"):
        return pixels, turn
    read = Image.frombytes(image.mode, shape[1::-1], pixels.data.cast("B"), "raw", rawmode)
    if image.palette:
        read.putpalette(image.palette)
    return read, turn


def mend_palette(image: ImageFile.ImageFile) -> None:
    """Read a palette of 8-bit numbers as that: it should hold 16-bit numbers, but some programs don't know."""
    colors = getattr(image, "tag_v2", {}).get(_COLOR_MAP, ())
    if image.mode in ("P", "PA") and colors and max(colors) <= _BYTE_MAX:
        image.palette = ImagePalette.raw("RGB;L", bytes(colors))


def _check_sums(data: bytes, tags: Mapping[int, Any]) -> None:
    """Raise DeflateError where a checksum is wrong: libtiff may stop reading before it."""
    samples = tags.get(_SAMPLES, 1) * -(-max(tags.get(_BITS_PER_SAMPLE, (1,))) // 8)
    image, tile = ([tags.get(tag, 0) for tag in pair] for pair in (_SIZE, _TILE_SIZE))
    left = (image[0] + tile[0]) * (image[1] + tile[1]) * samples
    most = math.prod(tile if all(tile) else image) * samples
    for stream in _streams(data, tags):
        if left < 0:
            raise SampleError("the image is broken: its strips or tiles hold more than its pixels")
        left -= len(imagecodecs.deflate_decode(stream, out=min(most, len(stream) * _MOST_PACKED)))


def _streams(data: bytes, tags: Mapping[int, Any]) -> Iterator[bytes]:
    """Yield the compressed strips or tiles; one that stands for several, once."""
    for offsets, lengths in _PLACES:
        for offset, length in dict.fromkeys(zip(tags.get(offsets, ()), tags.get(lengths, ()), strict=False)):
            yield data[offset : offset + length]


def _as_gray(data: bytes) -> bytes:
    """Return a TIFF that says its colors are gray: of CMYK, imagecodecs makes RGB, and keeps errors to itself."""
    place = next(place for tag, _, place, _ in _entries(data) if tag == _PHOTOMETRIC)
    gray = b"\1\0" if data[:2] == b"II" else b"\0\1"
    return data[:place] + gray + data[place + 2 :]
