"""What makes an image a pair: a photograph on the left, on the right its label in the colors of the classes.

That an image is twice as wide as high proves nothing: so are panoramas and many street scenes. A label is painted: its
plain areas, where neighboring pixels are alike, have colors of classes. On 700 pairs that went through JPEG, at least 95 % of
what is plain in the right half is near such a color, and at most 40 % in the left half. Night is black and fog is gray in
both halves: therefore the left half must be much less like a label than the right one.
"""

import functools
from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image

from vitseg.errors import SampleError, StorageError
from vitseg.images import MAX_PIXELS
from vitseg.images.decode import decode_image
from vitseg.labels import Label
from vitseg.storage import LocalStore, ObjectInfo, Store

_SPOTS = 24
"""Rows and columns of the spots that are looked at: 576 of a half, whatever its size."""
_PLAIN = 4
"""Largest difference, of a channel, between pixels that are alike."""
_NEAR = 10.0
"""Euclidean RGB distance up to which a color is that of a class: JPEG moves plain areas less."""
_FEW = 0.02
"""Share of the spots that black must leave to say anything; a label with less is nearly all black."""
_MOST = 0.6
"""Share from which a half looks like a label; the other half may have half as much."""


def split_pair(image: Image.Image, labels: tuple[Label, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Cut a pair, RGB, exactly twice as wide as high, into photograph (left) and color label (right), uint8 (H, H, 3).

    Raises:
        SampleError: it has another shape, or its right half alone does not look like a label.
    """
    width, height = image.size
    if width != 2 * height:
        raise SampleError(f"the pair is {width}x{height}: not twice as wide as high")
    pixels = np.asarray(image)
    photo, label = pixels[:, :height], pixels[:, height:]
    (left, left_black), (right, right_black) = _shares(pixels, labels)
    if right is None:
        left, right = max(left or 0.0, left_black), right_black
    if right < _MOST:
        left_does = "; its left half has: swap them" if (left or 0) >= _MOST else ""
        raise SampleError(
            f"no pair: only {right:.0%} of what is plain in its right half has a class's color{left_does}"
        )
    if left is not None and left > right / 2:
        raise SampleError("no pair: its halves are too alike to be a photograph and its label")
    return photo, label


def find_pair(store: Store, objects: Iterable[ObjectInfo], labels: tuple[Label, ...]) -> tuple[bool, str]:
    """Return whether one of some images is a pair, and why the first that is none is not.

    Raises:
        AccessError, StorageError: a bucket refused or failed; a file that can't be read is no pair.
    """
    why = ""
    for info in objects:
        try:
            split_pair(decode_image(store.read(info.key), MAX_PIXELS), labels)
        except (SampleError, StorageError) as error:
            if isinstance(error, StorageError) and not isinstance(store, LocalStore):  # a bucket may fail for a while
                raise
            why = why or f"{info.key}: {error}"
        else:
            return True, why
    return False, why


def _shares(pixels: np.ndarray, labels: tuple[Label, ...]) -> Iterator[tuple[float | None, float]]:
    """Yield, for each half of a pair, uint8 (H, 2 H, 3), the share of its plain spots that have a class's color, and of black ones.

    Black, of which the share is that of all spots, is no class's color; the first is None where hardly anything else is plain.
    """
    rows, columns = _places(len(pixels))
    lines, lines_below = pixels.take(rows, 0), pixels.take(rows + 1, 0)
    spots, below, beside = (  # (3, N): sums over three channels are quick if these come first
        part.take(places, 1).reshape(-1, 3).T.astype(np.float32, order="C")
        for part, places in ((lines, columns), (lines_below, columns), (lines, columns + 1))
    )
    plain = np.maximum(abs(below - spots), abs(beside - spots)).max(0) <= _PLAIN
    squared = (spots**2).sum(0)
    black = plain & (squared <= _NEAR**2)
    palette, half_squared = _palette(labels)
    # |spot - color|² ≤ near², for the nearest color, without a square of each difference
    near = plain & ((palette @ spots - half_squared).max(0) >= (squared - _NEAR**2) / 2)
    plain, black, near = (found.reshape(len(rows), len(columns)) for found in (plain, black, near))
    for half in (slice(0, len(rows)), slice(len(rows), None)):
        count, dark = int(plain[:, half].sum()), int(black[:, half].sum())
        enough = count - dark >= max(1, _FEW * len(rows) ** 2)
        share = int(near[:, half].sum()) / (count - dark) if enough else None
        yield share, dark / max(1, len(rows) ** 2)


@functools.lru_cache(maxsize=16)
def _places(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return evenly spaced rows, and columns of both halves, of pixels that have a neighbor below and beside."""
    count = min(_SPOTS, side - 1)
    places = ((np.arange(count) + 0.5) * (side - 1) / max(count, 1)).astype(np.intp)
    return places, np.concatenate([places, places + side])


@functools.lru_cache(maxsize=4)
def _palette(labels: tuple[Label, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the colors of classes, without black, float32 (C, 3), and half of their squared lengths (C, 1)."""
    colors = np.array(sorted({label.color for label in labels} - {(0, 0, 0)}), np.float32)
    return colors, (colors**2).sum(1, keepdims=True) / 2
