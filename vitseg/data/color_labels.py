"""Color labels → train ids, for clean color masks and for masks that went through JPEG.

JPEG smears colors: in a lossy label only two thirds of the pixels lie within 5 steps of a palette color,
so each pixel takes the class of its nearest color. A table over a coarse grid of colors makes that a single
look-up.
"""

import functools

import numpy as np

from vitseg.errors import SampleError
from vitseg.labels import IGNORE_INDEX, Label, foreground_class, label_train_ids

GRID_BITS = 6
"""The table has 64 cells a channel, each 4 color steps wide."""
MAX_DISTANCE = 60.0
"""Euclidean RGB distance beyond which a color belongs to no class; about 1 % of real JPEG label pixels."""
BLEND_COLORS = frozenset({"tunnel", "guard rail"})
"""Colors that occur in JPEG labels almost only as blends at edges, and are ignored there."""
MAX_UNKNOWN = 0.5
"""Share of pixels with a color outside the palette above which an image is no label of this data set."""


def nearest_colors(rgb: np.ndarray, labels: tuple[Label, ...]) -> np.ndarray:
    """Return the train ids uint8 (H, W) of a lossy color label uint8 (H, W, 3), each pixel by its nearest color.

    255 where that color has no train id or is over `MAX_DISTANCE` away. Where labels share a color, the first counts.
    """
    cell = (rgb >> (8 - GRID_BITS)).astype(np.int32)
    return _nearest_table(labels)[(cell[..., 0] << 2 * GRID_BITS) | (cell[..., 1] << GRID_BITS) | cell[..., 2]]


def exact_colors(rgb: np.ndarray, labels: tuple[Label, ...]) -> np.ndarray:
    """Return the train ids uint8 (H, W) of a lossless color label uint8 (H, W, 3); only exact palette colors count.

    255 where a color has no train id or is not in the palette; in a binary data set 1, background, in both cases.

    Raises:
        SampleError: most pixels have colors that are not in the palette, and the data set is not binary.
    """
    codes, train_ids = _exact_table(labels)
    pixels = _pack(rgb)
    at = np.searchsorted(codes, pixels).clip(max=len(codes) - 1)
    known = codes[at] == pixels
    binary = foreground_class(labels) is not None
    if not binary and (unknown := 1 - float(known.mean())) > MAX_UNKNOWN:
        raise SampleError(f"{unknown:.0%} of the label's pixels have colors that no class has")
    return np.where(known, train_ids[at], np.uint8(1 if binary else IGNORE_INDEX))


def _pack(rgb: np.ndarray) -> np.ndarray:
    """(…, 3) uint8 → (…) int32 0xRRGGBB."""
    wide = rgb.astype(np.int32)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]


@functools.lru_cache(maxsize=4)
def _exact_table(labels: tuple[Label, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return sorted distinct color codes int32 (C,) and their train ids uint8 (C,)."""
    codes = _pack(np.array([label.color for label in labels], np.uint8))
    codes, first = np.unique(codes, return_index=True)
    return codes, np.array(label_train_ids(labels), np.uint8)[first]


@functools.lru_cache(maxsize=4)
def _nearest_table(labels: tuple[Label, ...]) -> np.ndarray:
    """Return uint8 (64³,): the train id of the color that is nearest to each cell's center."""
    kept = [label for label in labels if label.name not in BLEND_COLORS]
    colors = np.array([label.color for label in kept], np.float32)  # (C, 3)
    step = 2 ** (8 - GRID_BITS)
    center = np.arange(2**GRID_BITS, dtype=np.float32) * step + (step - 1) / 2
    cells = np.stack(np.meshgrid(center, center, center, indexing="ij"), -1).reshape(-1, 3)
    squared = (cells**2).sum(1, keepdims=True) - 2 * cells @ colors.T + (colors**2).sum(1)  # (64³, C)
    nearest = squared.argmin(1)
    train_ids = np.array([label.train_id for label in kept], np.uint8)[nearest]
    distance = np.sqrt(squared[np.arange(len(cells)), nearest].clip(min=0))
    return np.where(distance > MAX_DISTANCE, np.uint8(IGNORE_INDEX), train_ids)
