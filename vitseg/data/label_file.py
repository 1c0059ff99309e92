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
    if data.startswith(b"\x89PNG"):  # the decoder leaves this chunk out
        head, _, after = data.partition(b"IDAT")[0].partition(b"tRNS")
        alpha = after[: int.from_bytes(head[-4:])] if after else b""
    if isinstance(alpha, int):
        clear[alpha & 255] = True
    else:
        clear[: len(alpha)] = np.frombuffer(alpha, np.uint8) == 0
    return colors, clear


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
