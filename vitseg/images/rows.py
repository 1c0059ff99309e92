"""A photograph of any size as rows of RGB, in bounded memory.

A decoder needs 4 bytes a pixel, once. The rows of a large image then go to a temporary file (3 bytes a pixel, in TMPDIR),
so that predictions have room where the image was. (A TMPDIR in memory gains nothing.)
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import RawIOBase
from typing import Protocol

import numpy as np
from PIL import Image

from vitseg.errors import StoreFullError
from vitseg.images.decode import ON_ITS_SIDE, TURNS, StoredPixels, broken_images, decode_pixels, open_image, to_rgb
from vitseg.images.numbers import white_level

SPILLED_PIXELS = 64_000_000
"""Larger images go to a temporary file."""
BAND = 256
"""Rows that are handled at a time."""


class Photo(Protocol):
    """An upright image that hands out its rows."""

    size: tuple[int, int]
    """Height and width, pixels."""

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """Return rows top … bottom - 1 as uint8 (rows, W, 3)."""
        ...


@contextmanager
def open_photo(data: bytes, max_pixels: int) -> Iterator[Photo]:
    """Decode an image for its rows.

    Raises:
        SampleError: it is empty, of a foreign format, too large, cut off or broken.
        StoreFullError: the temporary file of a large one finds no room.
    """
    image = open_image(data, max_pixels)
    with broken_images():
        decoded = DecodedPhoto(decode_pixels(image, data))
    if image.width * image.height <= SPILLED_PIXELS:
        yield decoded
        return
    with ExitStack() as stack:
        try:
            # Unbuffered: closing a full disk's file would write what is left, and fail once more.
            file = stack.enter_context(tempfile.TemporaryFile(prefix="vitseg-photo-", buffering=0))
            spilled = SpilledPhoto(decoded, file)
        except OSError as error:
            needed = f"{3 * image.width * image.height >> 20} MiB for the pixels of a large image"
            raise StoreFullError(
                f"{tempfile.gettempdir()} has no room for {needed}: set TMPDIR to a disk that has"
            ) from error
        image.close()
        del image, decoded
        yield spilled


class DecodedPhoto:
    """A decoded image, turned upright and made RGB row by row, without a second copy of the whole."""

    def __init__(self, stored: StoredPixels) -> None:
        """Take what `decode_pixels` returns."""
        self._stored, self._turn, bits = stored
        self._white = white_level(self._stored, bits) if isinstance(self._stored, Image.Image) else None
        width, height = self._stored.size if isinstance(self._stored, Image.Image) else self._stored.shape[1::-1]
        self._given = (width, height)
        self.size = (width, height) if self._turn >= ON_ITS_SIDE else (height, width)

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """See `Photo.rows`."""
        width, height = self._given
        box = (0, top, width, bottom)
        if self._turn in (3, 4):  # upside down
            box = (0, height - bottom, width, height - top)
        elif self._turn in (5, 6):  # its columns are upright rows
            box = (top, 0, bottom, height)
        elif self._turn in (7, 8):
            box = (width - bottom, 0, width - top, height)
        with broken_images():
            part = self._crop(box)
            return np.asarray(to_rgb(part.transpose(TURNS[self._turn]) if self._turn > 1 else part, self._white))

    def _crop(self, box: tuple[int, int, int, int]) -> Image.Image:
        if isinstance(self._stored, Image.Image):
            return self._stored.crop(box)
        left, top, right, bottom = box
        return Image.fromarray(np.ascontiguousarray(self._stored[top:bottom, left:right]))


class SpilledPhoto:
    """The rows of an image in a file."""

    def __init__(self, photo: Photo, file: RawIOBase) -> None:
        """Copy all rows."""
        self.size = photo.size
        self._file = file
        for band in bands(photo):
            rows = memoryview(band.tobytes())
            while rows:
                rows = rows[file.write(rows) :]

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """See `Photo.rows`."""
        width = self.size[1]
        self._file.seek(top * width * 3)
        return np.frombuffer(self._file.read((bottom - top) * width * 3), np.uint8).reshape(-1, width, 3)


def bands(photo: Photo) -> Iterator[np.ndarray]:
    """Yield all rows of a photograph, some at a time: uint8 (rows, W, 3)."""
    height = photo.size[0]
    for top in range(0, height, BAND):
        yield photo.rows(top, min(top + BAND, height))


def pixel_moments(photo: Photo) -> tuple[float, float]:
    """Return mean and standard deviation of all values of a photograph, exactly and in bounded memory."""
    counts = np.zeros(256, np.int64)
    for band in bands(photo):
        counts += np.array(Image.fromarray(band).histogram()).reshape(3, 256).sum(0)
    values = np.arange(256)
    mean = float(values @ counts / counts.sum())
    return mean, float(((values - mean) ** 2 @ counts / counts.sum()) ** 0.5)
