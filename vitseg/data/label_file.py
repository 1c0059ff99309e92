"""What the file of a label says beside its pixels: palette, bits, and whether the format keeps values."""

import numpy as np
from PIL import Image

_LOSSY = ("JPEG", "MPO", "AVIF", "JPEG2000")
_TIFF_BITS = 258  # the tag


def palette(image: Image.Image, data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return the colors of a palette, uint8 (256, 3), and which of them are transparent, bool (256,)."""
    colors, clear = np.zeros((256, 3), np.uint8), np.zeros(256, bool)
    given = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    colors[: len(given)] = given
    alpha = image.info.get("transparency", b"")
    if image.format == "PNG":  # the decoder leaves this chunk out
        alpha = png_chunk(data, b"tRNS")
    if isinstance(alpha, int):
        clear[alpha & 255] = True
    else:
        clear[: len(alpha)] = np.frombuffer(alpha, np.uint8) == 0
    return colors, clear


def png_chunk(data: bytes, name: bytes) -> bytes:
    """Return the content of a chunk that is before the pixels of a PNG; none: it has no such chunk."""
    place = data.find(name, 0, data.find(b"IDAT"))
    return data[place + 4 : place + 4 + int.from_bytes(data[place - 4 : place])] if place > 0 else b""


def stored_bits(image: Image.Image, data: bytes) -> int:
    """Return how many bits a value has in the file: decoders spread fewer than 8 over 0–255, and cut some 16 down to 8."""
    if image.mode == "1":
        return 1
    if image.format == "PNG":
        return data[24]  # in its header: https://www.w3.org/TR/png-3/#11IHDR
    if image.format == "TIFF":
        bits = max(getattr(image, "tag_v2", {}).get(_TIFF_BITS, (8,)))
        return bits if bits in (2, 4, 16) else 8
    return 8


def lossy_format(image: Image.Image, data: bytes) -> str:
    """Return the format of a label if it may change values, else ""."""
    if image.format == "WEBP":
        return "" if b"VP8L" in data[:64] else "WEBP"
    return image.format if image.format in _LOSSY else ""
