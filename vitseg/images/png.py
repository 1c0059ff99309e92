"""PNG to pixels by libspng (imagecodecs): the same pixels as Pillow's in two thirds of its time.

Only what says pixels counts, whoever decodes: the header, palette and pixels, and how the picture lies. Their checksums
must fit; neither decoder looks at all of them. Other chunks (texts, color profiles, dates) are left out, whatever
state they are in and however large they are: no viewer refuses a picture for them.

Only plain files are decoded here: 8-bit RGB, RGBA or gray, without orientation. Pillow decodes all others.
(imagecodecs has libpng, too, but leaks memory and references to None with each damaged file, until Python aborts.)
"""

import struct
import zlib
from collections.abc import Iterator

import imagecodecs
import numpy as np
from PIL import PngImagePlugin

from vitseg.errors import SampleError

START = b"\x89PNG\r\n\x1a\n"
_CHUNK = struct.Struct(">I4s")  # length and name; data and a CRC follow (https://www.w3.org/TR/png-3/#5Chunk-layout)
_HEADER = struct.Struct(">II5B")  # width, height, depth, color type, compression, filter, interlace
_PALETTE = 3  # color type
_PLAIN: dict[tuple[int, ...], tuple[int, ...]] = {(8, 0, 0, 0, 0): (), (8, 2, 0, 0, 0): (3,), (8, 6, 0, 0, 0): (4,)}
_AFTER_HEADER = len(START) + 25
_CHANNELS = {2: 3, 4: 2, 6: 4}  # by color type; others have one
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column and row, and steps, of the passes of interlaced pixels."""
_PIECE = 1 << 20  # bytes
_ANCILLARY = 0x20  # this bit of a name's first letter: the chunk may be left out
_NEEDED = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
_XMP, _EXIF_AS_TEXT = b"XML:com.adobe.xmp", b"Raw profile type exif"
_ORIENTED = (_XMP + b"\0", _EXIF_AS_TEXT + b"\0", b"II*\0", b"MM\0*")
"""What chunks begin with that may say how a picture lies, even if a chunk's name (eXIf) is what is damaged."""
_MOST_DROPPED = 100_000  # chunks


def decode_png(data: bytes, max_pixels: int) -> np.ndarray | None:
    """Decode a PNG as it is stored: uint8 (H, W, 3 or 4) or, gray, (H, W); None where Pillow must decode or refuse it.

    Raises:
        SampleError: it is damaged.
    """
    if not data.startswith(START + b"\0\0\0\x0dIHDR"):
        return None
    kept = keep_pixels(data)
    if len(kept) < _AFTER_HEADER:
        raise SampleError("the image is broken: it ends in its header")
    width, height, *kind = _HEADER.unpack_from(kept, 16)
    channels = _PLAIN.get(tuple(kind))
    if channels is None or width * height > max_pixels or not all(name in _NEEDED for name, _, _ in _chunks(kept)):
        return None
    try:
        pixels: np.ndarray = imagecodecs.spng_decode(kept)
    except imagecodecs.SpngError as error:
        reason = str(error).removeprefix("spng_decode_image returned ")
        raise SampleError(f"the image is broken: {reason}") from error
    return pixels if pixels.shape == (height, width, *channels) else None


def check_png(data: bytes) -> None:
    """Look for what Pillow overlooks in a PNG that `decode_png` leaves to it: compressed pixels that end too soon.

    Raises:
        SampleError: they do, or can't be read.
    """
    if not data.startswith(START):
        return
    width, height, depth, color, *_, interlace = _HEADER.unpack_from(data, 16)
    missing = 0
    for left, top, right, down in _ADAM7 if interlace else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // right), -(-(height - top) // down)
        missing += rows * (1 + -(-columns * depth * _CHANNELS.get(color, 1) // 8)) if columns > 0 and rows > 0 else 0
    stream = zlib.decompressobj()
    for name, place, end in _chunks(data):
        piece = data[place + 8 : end - 4] if name == b"IDAT" else b""
        while piece and missing > 0:
            try:
                missing -= len(stream.decompress(piece, _PIECE))
            except zlib.error as error:
                raise SampleError(f"the image is broken: {error}") from error
            piece = stream.unconsumed_tail
    if missing > 0:
        raise SampleError(f"the image is broken: {missing} bytes of its pixels are missing")


def keep_pixels(data: bytes, *, header_only: bool = False) -> bytes:
    """Return a PNG without the chunks that change no pixel; `data` itself where there are none.

    With `header_only`, the checksums of pixels are left to another call.

    Raises:
        SampleError: it is cut off, or the checksum of a chunk that matters is wrong.
    """
    kept, start, view = [], 0, memoryview(data)
    lacks_palette = data[25:26] == bytes([_PALETTE])
    for name, place, end in _chunks(data):
        if end > len(data):
            raise SampleError(f"the image is broken: it is cut off in its {name.decode('latin-1')!r} chunk")
        fits = (header_only and name == b"IDAT") or _checksum_fits(view[place + 4 : end])
        is_needed = name in _NEEDED or name == b"eXIf"
        if not is_needed and data.startswith(_ORIENTED, place + 8):
            is_needed = _may_turn(name, data[place + 8 : end - 4])
        if not fits and is_needed:
            raise SampleError(f"the image is broken: the checksum of its {name.decode('latin-1')!r} chunk is wrong")
        if name == b"IHDR" and place > len(START):
            raise SampleError("the image is broken: it has two headers")
        if is_needed:
            lacks_palette &= name != b"PLTE"
            if lacks_palette and name == b"IDAT":
                raise SampleError("the image is broken: it has no palette")
        elif not name[0] & _ANCILLARY:
            raise SampleError(f"its {name.decode('latin-1')!r} chunk changes its pixels in a way that is not known")
        else:
            kept.append(view[start:place])
            start = end
            if len(kept) > _MOST_DROPPED:
                raise SampleError(f"the image has more than {_MOST_DROPPED} chunks that say nothing of its pixels")
    return b"".join([*kept, view[start:]]) if kept else data


def _may_turn(name: bytes, text: bytes) -> bool:
    """Return whether what begins as `_ORIENTED` may say how a picture lies: XMP need not, and Pillow reads no large texts."""
    keyword, _, plain = text.partition(b"\0")
    if keyword not in (_XMP, _EXIF_AS_TEXT):
        return True
    if name == b"zTXt" or (name == b"iTXt" and plain[:1] == b"\1"):
        packed = plain[1:] if name == b"zTXt" else plain[2:].split(b"\0", 2)[-1]
        try:
            plain = zlib.decompressobj().decompress(packed, PngImagePlugin.MAX_TEXT_CHUNK + 1)
        except zlib.error:
            return True
        if len(plain) > PngImagePlugin.MAX_TEXT_CHUNK:
            return False
    return keyword != _XMP or b"rientation" in plain


def chunk(data: bytes, name: bytes) -> bytes:
    """Return the content of a chunk that is before the pixels of a PNG; empty where there is none."""
    for found, place, end in _chunks(data):
        if found in (name, b"IDAT"):
            return data[place + 8 : end - 4] if found == name else b""
    return b""


def _checksum_fits(chunk: memoryview) -> bool:
    return zlib.crc32(chunk[:-4]) == int.from_bytes(chunk[-4:])


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, place and end of each chunk before IEND, the last one's if it is cut off, too."""
    place = len(START)
    while place + 8 <= len(data):
        length, name = _CHUNK.unpack_from(data, place)
        if name == b"IEND":
            return
        yield name, place, place + 12 + length
        place += 12 + length
