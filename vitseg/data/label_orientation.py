"""Decode a label, and turn it as its photograph was turned.

Cameras store pixels as their sensor lies, and note how to turn them (EXIF orientation). Photographs are turned upright, but
a label may have been drawn on the pixels as stored, or have kept a note that no longer holds. The sizes tell which.
"""

import numpy as np
from PIL import Image

from vitseg.data.label_file import png_chunk
from vitseg.errors import SampleError
from vitseg.images.decode import TURNS, broken_images, decode_pixels, open_image, orientation

_EXIF = {b"\xff\xd8": b"Exif", b"\x89P": b"eXIf"}
"""What a JPEG or PNG has near its start or end, by how it begins, if it has an orientation."""
_NEAR = 2**14  # bytes
_WITH_PAGES = ("TIFF", "GIF", "WEBP")
_MAX_PAGES = 256
_SUBFILE_TYPE = 254  # the TIFF tag: not 0 are previews and transparency


def decode_label(
    label: bytes, photo: bytes, size: tuple[int, int], max_pixels: int
) -> tuple[Image.Image, tuple[str, ...]]:
    """Decode a label in the mode that it is stored in, turned so that it fits an upright photograph, if it can.

    Args:
        label: content of its file.
        photo: content of the photograph's file.
        size: height and width of the upright photograph.
        max_pixels: limit of both.

    Returns:
        The label, and what is doubtful about how it lies.

    Raises:
        SampleError: it is empty, of a foreign format, too large, cut off or broken, or has several pages.
    """
    header = open_image(label, max_pixels)
    if (pages := _pages(label, header.format, max_pixels)) > 1:
        raise SampleError(f"{pages} pages of one size: save one image in which each class has its id or color")
    pixels, own, _ = decode_pixels(header, label)
    stored = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    turn = _orientation(photo, max_pixels)
    upright, as_photo = (stored.transpose(TURNS[one]) if one > 1 else stored for one in (own, turn))
    fitting = [image for image in (upright, as_photo, stored) if (image.height, image.width) == size]
    best = fitting[0] if fitting else upright
    best.format = header.format
    if turn != own and upright is best and any(image is as_photo for image in fitting):
        return best, (
            "label and photograph are turned differently (EXIF orientation), and the size fits both ways: "
            "it was taken as drawn on the upright photograph",
        )
    return best, ()


def _pages(data: bytes, kind: str | None, max_pixels: int) -> int:
    """Return how many pages or frames of the first's size an image has; smaller ones are previews."""
    if kind == "PNG":
        return int.from_bytes(png_chunk(data, b"acTL")[:4])
    if kind not in _WITH_PAGES:
        return 1
    image = open_image(data, max_pixels)
    size, count = image.size, 1
    with broken_images():
        for page in range(1, min(getattr(image, "n_frames", 1), _MAX_PAGES)):
            image.seek(page)
            count += image.size == size and not getattr(image, "tag_v2", {}).get(_SUBFILE_TYPE, 0)
    return count


def _orientation(data: bytes, max_pixels: int) -> int:
    """Return the EXIF orientation of an image, 1 (upright) – 8; quickly where it has none."""
    mark = _EXIF.get(data[:2])
    if mark and mark not in data[:_NEAR] and mark not in data[-_NEAR:]:
        return 1
    return orientation(open_image(data, max_pixels))
