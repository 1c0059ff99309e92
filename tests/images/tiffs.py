"""TIFF files of kinds that Pillow doesn't write: any type of number, separate planes, 12 bits, white as 0."""

import struct
import zlib

import numpy as np

_FORMATS = {"u": 1, "i": 2, "f": 3}


def tiff(
    values: np.ndarray,
    *,
    width: int | None = None,
    bits: int | None = None,
    photometric: int | None = None,
    planes: bool = False,
    compression: int = 1,
    more: dict[int, tuple[int, ...]] | None = None,
) -> bytes:
    """Encode (H, W) or (H, W, C), or (C, H, W) with `planes`, as one strip, or one a plane.

    `more` are tags of 16-bit numbers. `width` and `bits` are those of values that are packed already.
    """
    parts = list(values) if planes else [values]
    samples = len(parts) if planes else values.shape[2] if values.ndim == 3 else 1
    packed = [part.tobytes() if compression == 1 else zlib.compress(part.tobytes()) for part in parts]
    places = [8 + sum(map(len, packed[:index])) for index in range(len(packed))]
    tags: dict[int, tuple[str, tuple[int, ...]]] = {
        256: ("I", (width or parts[0].shape[1],)),
        257: ("I", (parts[0].shape[0],)),
        258: ("H", (bits or 8 * values.itemsize,) * samples),
        259: ("H", (compression,)),
        262: ("H", ((2 if samples == 3 else 1) if photometric is None else photometric,)),
        273: ("I", tuple(places)),
        277: ("H", (samples,)),
        278: ("I", (parts[0].shape[0],)),
        279: ("I", tuple(map(len, packed))),
        284: ("H", (2 if planes else 1,)),
        339: ("H", (_FORMATS[values.dtype.kind],) * samples),
    } | {tag: ("H", numbers) for tag, numbers in (more or {}).items()}
    body = b"".join(packed)
    body += bytes(len(body) % 2)
    order = ">" if values.dtype.byteorder == ">" else "<"
    directory, behind = struct.pack(f"{order}H", len(tags)), b""
    after = 8 + len(body) + 2 + 12 * len(tags) + 4
    for tag, (code, numbers) in sorted(tags.items()):
        content = struct.pack(f"{order}{len(numbers)}{code}", *numbers)
        if len(content) > 4:
            content, behind = struct.pack(f"{order}I", after + len(behind)), behind + content
        directory += struct.pack(f"{order}HHI4s", tag, 3 if code == "H" else 4, len(numbers), content)
    return (
        (b"MM\0*" if order == ">" else b"II*\0")
        + struct.pack(f"{order}I", 8 + len(body))
        + body
        + directory
        + bytes(4)
        + behind
    )
