"""Bytes of an image → what the model takes: the whole image, shrunk to the model's size.

The filter is that of preprocessing (vitseg/data/samples.py), bicubic and antialiased: the model sees here what it saw in
training. torch's is several times as fast as Pillow's, and gives the same but for 1 of 255
in one value of some thousands (of images that are enlarged, in one of a hundred).
"""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from vitseg.errors import SampleError
from vitseg.images.decode import (
    LARGE_PIXELS,
    ON_ITS_SIDE,
    TURNS,
    as_people_see_it,
    one_large,
    open_image,
    orientation,
)
from vitseg.images.jpeg import decode_jpeg


def model_input(data: bytes, size: tuple[int, int], max_pixels: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Decode an image and shrink it to what the model takes.

    A decoded image is up to 4 bytes a pixel, twice: see `one_large`.

    Args:
        data: content of the file.
        size: (height, width) of the model's input.
        max_pixels: larger images are refused.

    Returns:
        uint8 (3, height, width), and (height, width) of the image as people see it.

    Raises:
        SampleError: see `images.decode_image`.
    """
    image = open_image(data, max_pixels)
    given = (image.height, image.width)
    with one_large(image.height * image.width):
        if image.format in ("JPEG", "MPO") and (pixels := decode_jpeg(data, given, gray=True)) is not None:
            return _turned(pixels, _orientation(image), size)
        photo = as_people_see_it(image)
        given = (photo.height, photo.width)
        if photo.height * photo.width > LARGE_PIXELS:  # an array would be another 3 bytes a pixel
            small = np.asarray(photo.resize(size[::-1], Image.Resampling.BICUBIC))
        else:
            small = _resize(np.array(photo), size)
    return _planes(small), given


def _turned(pixels: np.ndarray, turn: int, size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    """Shrink pixels as a camera stored them, then turn what is left as people see it."""
    given = pixels.shape[:2]
    if turn >= ON_ITS_SIDE:
        given, size = given[::-1], size[::-1]
    small = _resize(pixels, size)
    return _planes(np.asarray(Image.fromarray(small).transpose(TURNS[turn])) if turn > 1 else small), given


def _resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    planes = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    return F.interpolate(planes, size, mode="bicubic", antialias=True)[0].permute(1, 2, 0).numpy()


def _planes(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _orientation(image: Image.Image) -> int:
    try:
        return orientation(image)
    except Exception as error:  # on hostile bytes decoders raise anything
        raise SampleError(f"the image is broken: {error or type(error).__name__}") from error
