"""Numbers of other types than 8 bits → bytes, by one rule for the whole photograph, or not at all.

White is the largest number that the type holds: 65535 of 16 bits, 4095 of TIFF's 12 bits. Integers of 32 bits hold numbers
of 16. Photographs without a number over a quarter of white are refused: those of 8, 10, 12 or 14 bits in 16 would come out
nearly black, and nothing in a file tells them from dark photographs. Floats are 0–1 where none is over 1, and 0–255
where one is over 32; what lies between, below 0 or above 255 has no white that anybody knows.
"""

import numpy as np
from PIL import Image

from vitseg.errors import SampleError

_LARGEST = 65_535
_LARGEST_12_BITS = 4_095
_DARK_FLOATS = 32
_BITS_PER_SAMPLE = 258  # the TIFF tag
_BYTE_MAX = 255
_JPEG_2000_SIZE, _JPEG_2000_BITS = b"\xff\x4f\xff\x51", 42  # its first segment, and where that tells the bits of colors


def white_level(image: Image.Image, bits: int = 8) -> float:
    """Return the number that becomes 255, for a whole image as it is stored.

    Args:
        image: the image, of any mode.
        bits: of each number in the file; of colors of more than 8, Pillow keeps the upper 8.

    Raises:
        SampleError: it can't be told.
    """
    if image.mode == "F":
        return _white_of_floats(np.asarray(image))
    if image.mode.startswith("I"):  # I;16 and friends
        numbers = np.asarray(image)
        is_12_bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE) == (12,)
        return _white_of_integers(int(numbers.min()), int(numbers.max()), _LARGEST_12_BITS if is_12_bits else _LARGEST)
    if bits > 8:
        extrema = np.reshape(image.getextrema(), (-1, 2))[: 1 if image.mode == "LA" else 3]
        _white_of_integers(0, (int(extrema.max()) + 1 << bits - 8) - 1, (1 << bits) - 1, about="about ")
    return 255


def to_bytes(numbers: np.ndarray, white: float) -> np.ndarray:
    """Scale integers and floats of 0 – `white` to 0–255: uint8."""
    if numbers.dtype.kind == "f":
        return (numbers * (255 / white) + 0.5).astype(np.uint8)
    return ((numbers.astype(np.int32) * 255 + int(white) // 2) // int(white)).astype(np.uint8)


def stored_bits(header: Image.Image, data: bytes) -> int:
    """Return how many bits each color has in the file, or 8 for fewer. Call it before the pixels are loaded."""
    if header.format == "JPEG2000":
        return max(8, (data[data.find(_JPEG_2000_SIZE) + _JPEG_2000_BITS] & 0x7F) + 1)
    for codec, _, _, options in getattr(header, "tile", []):
        if ";16" in str(options) or (header.mode == "RGB" and codec.startswith("ppm") and options[1] > _BYTE_MAX):
            return 16
    return 8


def _white_of_integers(smallest: int, largest: int, white: int, about: str = "") -> int:
    if smallest < 0 or largest > white:
        raise SampleError(
            f"its numbers are {smallest} to {largest}: only 0 to {white} are read; save it with 8 or 16 bits"
        )
    if largest <= white // 4:
        raise SampleError(
            f"its numbers end at {about}{largest}, at most a quarter of {white}: it would come out nearly black; "
            f"scale them to {white}, or save 8 bits"
        )
    return white


def _white_of_floats(numbers: np.ndarray) -> float:
    if not np.isfinite(numbers).all():
        raise SampleError("some of its numbers are infinite, or none (NaN): replace them, then save it with 8 bits")
    smallest, largest = float(numbers.min()), float(numbers.max())
    if smallest >= 0 and largest <= 1:
        return 1.0
    if smallest >= 0 and _DARK_FLOATS < largest <= 255:
        return 255.0
    raise SampleError(f"its numbers are {smallest:g} to {largest:g}: of floats only 0 to 1 and 0 to 255 are read")
