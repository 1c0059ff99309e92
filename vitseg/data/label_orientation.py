"""Decode a label, and turn it as its photograph was turned.

Cameras store pixels as their sensor lies, and note how to turn them (EXIF orientation). Photographs are turned upright, but
a label may have been drawn on the pixels as stored, or have kept a note that no longer holds. The sizes tell which.
"""

import numpy as np
from PIL import Image

from vitseg.data.label_file import LabelFile, has_pages, label_file
from vitseg.errors import SampleError
from vitseg.images.decode import TURNS, decode_pixels, open_image, orientation
from vitseg.images.png import START

_TURNED_PNG = (b"eXIf", b"XML:com.adobe.xmp", b"Raw profile type exif")
"""What is somewhere in a PNG that has an orientation: Pillow decodes all pixels in search of it."""


def decode_label(
    label: bytes, photo: bytes, size: tuple[int, int], max_pixels: int
) -> tuple[Image.Image, LabelFile, tuple[str, ...]]:
    """Decode a label in the mode that it is stored in, turned so that it fits an upright photograph, if it can.

    Args:
        label: content of its file.
        photo: content of the photograph's file.
        size: height and width of the upright photograph.
        max_pixels: limit of both.

    Returns:
        The label, what its file says, and what is doubtful about how it lies.

    Raises:
        SampleError: it is empty, of a foreign format, too large, cut off or broken, or has several pages.
    """
    header = open_image(label, max_pixels)
    if has_pages(header.format, label):
        raise SampleError("several pages of one size: save one image in which each class has its id or color")
    file = label_file(header, label)
    pixels, own, _ = decode_pixels(header, label)
    stored = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    turn = _orientation(photo, max_pixels)
    upright, as_photo = (stored.transpose(TURNS[one]) if one > 1 else stored for one in (own, turn))
    fitting = [image for image in (upright, as_photo, stored) if (image.height, image.width) == size]
    best = fitting[0] if fitting else upright
    if turn != own and upright is best and any(image is as_photo for image in fitting):
        return (
            best,
            file,
            (
                "label and photograph are turned differently (EXIF orientation), and the size fits both ways: "
                "it was taken as drawn on the upright photograph",
            ),
        )
    return best, file, ()


def _orientation(photo: bytes, max_pixels: int) -> int:
    """Return the EXIF orientation of a photograph, 1 (upright) – 8, without its pixels if possible."""
    if photo.startswith(START) and not any(mark in photo for mark in _TURNED_PNG):
        return 1
    return orientation(open_image(photo, max_pixels))
