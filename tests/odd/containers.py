"""PNG, TIFF, BMP and PNM written byte by byte from their specifications, with oddities that no library writes."""

import struct
import zlib
from collections.abc import Iterable

import numpy as np

PNG_START = b"\x89PNG\r\n\x1a\n"
GRAY, RGB, PALETTE, GRAY_ALPHA, RGBA = 0, 2, 3, 4, 6
"""Color types of PNG."""
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def chunk(name: bytes, data: bytes = b"", *, wrong_crc: bool = False) -> bytes:
    crc = zlib.crc32(name + data) ^ (0x5A5A5A5A if wrong_crc else 0)
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc)


def png(
    samples: np.ndarray, kind: int, depth: int = 8, *, palette: np.ndarray | None = None, interlaced: bool = False,
    before: bytes = b"", after: bytes = b"", idat: int = 1 << 20, empty_idat: bool = False, filtered: int = 0,
) -> bytes:  # fmt: skip
    """Write samples (H, W) or (H, W, C) of `depth` bits; `before` and `after` are chunks around the pixels."""
    height, width = samples.shape[:2]
    header = chunk(b"IHDR", struct.pack(">II5B", width, height, depth, kind, 0, 0, int(interlaced)))
    colors = b"" if palette is None else chunk(b"PLTE", palette.astype(np.uint8).tobytes())
    parts = [samples[top::down, left::right] for top, left, down, right in _ADAM7] if interlaced else [samples]
    stream = zlib.compress(b"".join(_rows(part, depth, filtered) for part in parts if part.size), 6)
    pieces = [stream[start : start + idat] for start in range(0, len(stream), idat)]
    data = b"".join(chunk(b"IDAT", piece) for piece in ([b"", *pieces] if empty_idat else pieces))
    # The palette follows what belongs before it, and precedes its transparency.
    first, tail = (before, b"") if b"tRNS" not in before else (b"", before)
    return PNG_START + header + first + colors + tail + data + after + chunk(b"IEND")


def _rows(samples: np.ndarray, depth: int, filtered: int) -> bytes:
    packed = packed_rows(samples, depth, ">")
    if filtered == 1:  # Sub: each byte less the one a pixel to its left
        step = max(1, depth * (1 if samples.ndim == 2 else samples.shape[2]) // 8)
        shifted = np.zeros_like(packed)
        shifted[:, step:] = packed[:, :-step]
        packed = packed - shifted
    elif filtered == 2:  # Up
        packed = packed - np.concatenate([np.zeros_like(packed[:1]), packed[:-1]])
    kinds = np.full((len(packed), 1), filtered, np.uint8)
    return np.concatenate([kinds, packed], 1).tobytes()


def packed_rows(samples: np.ndarray, depth: int, order: str) -> np.ndarray:
    """Return rows of samples as bytes, uint8 (H, N): below 8 bits several samples share one."""
    flat = samples.reshape(len(samples), -1)
    if depth == 12:  # three bytes for two samples
        bits = (flat[..., None].astype(np.uint16) >> np.arange(11, -1, -1, dtype=np.uint16)) & 1
        return np.packbits(bits.reshape(len(flat), -1).astype(np.uint8), axis=1)
    if depth >= 8:
        kind = samples.dtype.kind if samples.dtype.kind == "f" else ("i" if samples.dtype.kind == "i" else "u")
        typed = flat.astype(np.dtype(f"{kind}{depth // 8}").newbyteorder(order))
        return np.frombuffer(typed.tobytes(), np.uint8).reshape(len(flat), -1)
    bits = (flat[..., None].astype(np.uint8) >> np.arange(depth - 1, -1, -1, dtype=np.uint8)) & 1
    return np.packbits(bits.reshape(len(flat), -1).astype(np.uint8), axis=1)


def tiff(
    samples: np.ndarray, depth: int = 8, *, photometric: int | None = None, order: str = "<", deflate: bool = False,
    strip: int = 0, planar: bool = False, orientation: int = 0, extra: int | None = None,
    palette: np.ndarray | None = None, sample_format: int | None = None, tags: Iterable[tuple[int, int, bytes]] = (),
    big: bool = False, tile: int = 0, predictor: int = 1,
) -> bytes:  # fmt: skip
    """Write samples (H, W) or (H, W, C) in strips of so many rows; `extra` says what a channel over those of the color is.

    `tile`: squares of so many pixels instead of strips. `predictor` 2: differences, of whole bytes. `tags` are further ones:
    number, type and bytes.
    """
    height, width = samples.shape[:2]
    channels = 1 if samples.ndim == 2 else samples.shape[2]
    kind = {"f": 3, "i": 2}.get(samples.dtype.kind, 1) if sample_format is None else sample_format
    photometric = (1 if channels < 3 else 2) if photometric is None else photometric
    planes = [samples[..., c] for c in range(channels)] if planar and channels > 1 else [samples]
    strip = strip or height
    if tile:
        parts = [part for plane in planes for part in _tiles(plane, tile)]
    else:
        parts = [plane[top : top + strip] for plane in planes for top in range(0, height, strip)]
    if predictor == 2:
        parts = [np.concatenate([part[:, :1], part[:, 1:] - part[:, :-1]], 1) for part in parts]
    strips = [packed_rows(part, depth, order).tobytes() for part in parts]
    strips = [zlib.compress(data) for data in strips] if deflate else strips

    def short(*values: int) -> bytes:
        return struct.pack(f"{order}{len(values)}H", *values)

    def long(*values: int) -> bytes:
        return struct.pack(f"{order}{len(values)}I", *values)

    start = 16 if big else 8
    places = start + np.cumsum([0, *map(len, strips)])[:-1]
    entries = [
        (256, 4, long(width)), (257, 4, long(height)), (258, 3, short(*[depth] * channels)),
        (259, 3, short(8 if deflate else 1)), (262, 3, short(3 if palette is not None else photometric)),
        (324 if tile else 273, 4, long(*map(int, places))), (277, 3, short(channels)),
        (325 if tile else 279, 4, long(*map(len, strips))), (284, 3, short(2 if planar and channels > 1 else 1)),
        (339, 3, short(*[kind] * channels)),
    ]  # fmt: skip
    entries += [(322, 4, long(tile)), (323, 4, long(tile))] if tile else [(278, 4, long(strip))]
    entries += [(317, 3, short(predictor))] if predictor > 1 else []
    entries += [(274, 3, short(orientation))] if orientation else []
    entries += [(338, 3, short(extra))] if extra is not None else []
    entries += [(320, 3, short(*(palette.astype(int).T.ravel() * 257).tolist()))] if palette is not None else []
    return _directory(sorted([*entries, *tags]), b"".join(strips), order, big)


def _tiles(plane: np.ndarray, side: int) -> list[np.ndarray]:
    height, width = plane.shape[:2]
    padding = ((0, -height % side), (0, -width % side), *[(0, 0)] * (plane.ndim - 2))
    full = np.pad(plane, padding)
    return [
        full[top : top + side, left : left + side]
        for top in range(0, len(full), side)
        for left in range(0, full.shape[1], side)
    ]


def _directory(entries: list[tuple[int, int, bytes]], pixels: bytes, order: str, big: bool) -> bytes:
    sizes = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 12: 8, 13: 4}
    room, offset = (8, "Q") if big else (4, "I")
    start = (16 if big else 8) + len(pixels)
    start += start % 2
    table_size = (8 + 20 * len(entries) + 8) if big else (2 + 12 * len(entries) + 4)
    table, values = [], b""
    for number, kind, data in entries:
        count = len(data) // sizes[kind]
        if len(data) > room:
            field = struct.pack(f"{order}{offset}", start + table_size + len(values))
            values += data + b"\0" * (len(data) % 2)
        else:
            field = data.ljust(room, b"\0")
        table.append(struct.pack(f"{order}HH{offset}", number, kind, count) + field)
    mark = {"<": b"II", ">": b"MM"}[order]
    head = struct.pack(f"{order}HHHQ", 43, 8, 0, start) if big else struct.pack(f"{order}HI", 42, start)
    body = (mark + head + pixels).ljust(start, b"\0")
    count_of = struct.pack(f"{order}{'Q' if big else 'H'}", len(entries))
    return body + count_of + b"".join(table) + b"\0" * room + values


def bmp(rgb: np.ndarray, *, bits: int = 24, top_down: bool = False) -> bytes:
    """Write RGB, uint8 (H, W, 3), with 24 bits a pixel, or 16 in bit fields of 5, 6 and 5."""
    height, width = rgb.shape[:2]
    stored = rgb if top_down else rgb[::-1]
    if bits == 16:
        wide = stored.astype(np.uint16)
        rows = (wide[..., 0] >> 3 << 11 | wide[..., 1] >> 2 << 5 | wide[..., 2] >> 3).astype("<u2").view(np.uint8)
        masks = struct.pack("<3I", 0xF800, 0x07E0, 0x001F)
    else:
        rows, masks = stored[..., ::-1].reshape(height, -1), b""
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))
    data = rows.astype(np.uint8).tobytes()
    header = struct.pack(
        "<IiiHHIIiiII",
        40,
        width,
        -height if top_down else height,
        1,
        bits,
        3 if masks else 0,
        len(data),
        2835,
        2835,
        0,
        0,
    )
    offset = 14 + len(header) + len(masks)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + header + masks + data


def pnm(samples: np.ndarray, largest: int, *, text: bool = False, comment: bytes = b"") -> bytes:
    """Write gray (H, W) or RGB (H, W, 3) samples of 0 … `largest` as PGM or PPM."""
    height, width = samples.shape[:2]
    number = (2 if text else 5) + (samples.ndim == 3)
    head = b"P%d\n%s%d %d\n%d\n" % (number, b"#" + comment + b"\n" if comment else b"", width, height, largest)
    if text:
        return head + b"\n".join(b" ".join(b"%d" % value for value in row.ravel()) for row in samples) + b"\n"
    return head + samples.astype(">u2" if largest > 255 else np.uint8).tobytes()
