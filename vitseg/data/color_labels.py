"""Colors → train ids: exactly for lossless labels, by the nearest color for labels that went through JPEG.

JPEG smears colors: in a lossy label only two thirds of the pixels lie within 5 steps of a palette color,
so each pixel takes the class of its nearest color. A table over a coarse grid of colors makes that a single
look-up.

Of labels that share a color, one that is trained counts, else the first; if two classes do, the color means nothing. In a
binary data set black is background, too.
"""

import functools

import numpy as np

from vitseg.labels import IGNORE_INDEX, Label, background_of, foreground_class, label_train_ids, shared_colors

GRID_BITS = 6
"""The table has 64 cells a channel, each 4 color steps wide."""
MAX_DISTANCE = 60.0
"""Euclidean RGB distance beyond which a color belongs to no class; about 1 % of real JPEG label pixels."""
NEAR = 24.0
"""Euclidean RGB distance within which most pixels of a lossy label lie."""
ALMOST = 8
"""Steps a channel in which programs that make palettes change a color."""
BLEND_COLORS = frozenset({"tunnel", "guard rail"})
"""Colors that occur in JPEG labels almost only as blends at edges, and are ignored there unless they are trained."""
BLACK, WHITE = (0, 0, 0), (255, 255, 255)


def nearest_colors(rgb: np.ndarray, labels: tuple[Label, ...]) -> tuple[np.ndarray, int]:
    """Return the train ids uint8 (H, W) of a lossy color label uint8 (H, W, 3), and the number of pixels without one.

    Each pixel takes the class of its nearest color: 255 where that color has no train id, or is over `MAX_DISTANCE` away,
    which is what is counted. In a binary data set no color between the thing's and the background's is too far.
    """
    train_ids = _nearest_table(labels)[0][_cells(rgb)]
    return train_ids.astype(np.uint8), int(np.count_nonzero(train_ids < 0))


def near_share(rgb: np.ndarray, labels: tuple[Label, ...]) -> float:
    """Return the share of the pixels of a color label that are within `NEAR` of a class's color, 0–1."""
    return float(_nearest_table(labels)[1][_cells(rgb)].mean())


def exact_colors(rgb: np.ndarray, labels: tuple[Label, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the train ids uint8 (…) of colors uint8 (…, 3), and which of them a label has, bool (…).

    255 where a color has no train id, or no label has it.
    """
    codes, train_ids = _exact_table(labels)
    pixels = packed_colors(rgb)
    if not codes.size:  # all colors are shared, as in lists for masks of ids
        return np.full(pixels.shape, IGNORE_INDEX, np.uint8), np.zeros(pixels.shape, bool)
    at = np.searchsorted(codes, pixels).clip(max=len(codes) - 1)
    known = codes[at] == pixels
    return np.where(known, train_ids[at], np.uint8(IGNORE_INDEX)), known


def almost_colors(rgb: np.ndarray, labels: tuple[Label, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the train ids, uint8 (V,), of the colors nearest to some, uint8 (V, 3), and which are almost these, bool (V,)."""
    colors, train_ids = _colors(labels, lossy=False)
    if not colors.size:
        return exact_colors(rgb, labels)
    steps = np.abs(rgb[:, None].astype(np.int16) - colors).max(-1)  # (V, C)
    return train_ids[steps.argmin(1)], steps.min(1) <= ALMOST


def packed_colors(rgb: np.ndarray) -> np.ndarray:
    """(…, 3) uint8 → (…) int32 0xRRGGBB."""
    wide = rgb.astype(np.int32)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]


def unpacked_color(code: int) -> tuple[int, int, int]:
    """0xRRGGBB → (R, G, B)."""
    return code >> 16, code >> 8 & 255, code & 255


def _colors(labels: tuple[Label, ...], *, lossy: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the colors that have a meaning, uint8 (C, 3), and their train ids, uint8 (C,)."""
    meaning: dict[tuple[int, ...], int] = {}
    for label, train_id in zip(labels, label_train_ids(labels), strict=True):
        blend = lossy and label.name in BLEND_COLORS and train_id == IGNORE_INDEX
        if not blend and meaning.get(label.color, IGNORE_INDEX) == IGNORE_INDEX:
            meaning[label.color] = train_id
    if foreground := foreground_class(labels):
        if lossy and foreground.id == IGNORE_INDEX:
            meaning.setdefault(WHITE, 0)
        meaning.setdefault(BLACK, 1)
        meaning.setdefault(background_of(foreground).color, 1)
    for color in shared_colors(labels):
        meaning.pop(color)
    return np.array(list(meaning), np.uint8).reshape(-1, 3), np.array(list(meaning.values()), np.uint8)


@functools.lru_cache(maxsize=4)
def _exact_table(labels: tuple[Label, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return sorted distinct color codes int32 (C,) and their train ids uint8 (C,)."""
    colors, train_ids = _colors(labels, lossy=False)
    codes, first = np.unique(packed_colors(colors), return_index=True)
    return codes, train_ids[first]


@functools.lru_cache(maxsize=4)
def _nearest_table(labels: tuple[Label, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the train id of the color nearest to each cell's center, int16 (64³,), -1 if too far, and whether it is `NEAR`."""
    colors, train_ids = _colors(labels, lossy=True)
    palette = colors.astype(np.float32)  # (C, 3)
    step = 2 ** (8 - GRID_BITS)
    center = np.arange(2**GRID_BITS, dtype=np.float32) * step + (step - 1) / 2
    cells = np.stack(np.meshgrid(center, center, center, indexing="ij"), -1).reshape(-1, 3)
    squared = (cells**2).sum(1, keepdims=True) - 2 * cells @ palette.T + (palette**2).sum(1)  # (64³, C)
    nearest = squared.argmin(1)
    distance = np.sqrt(squared[np.arange(len(cells)), nearest].clip(min=0))
    is_near = distance <= NEAR
    if foreground_class(labels):  # what lies between the thing and the background is an edge
        between = [_distance_to_line(cells, a, b) for a in palette[train_ids == 0] for b in palette[train_ids == 1]]
        distance = np.minimum(distance, np.min(between, axis=0))
    too_far = distance > MAX_DISTANCE
    return np.where(too_far, np.int16(-1), train_ids[nearest].astype(np.int16)), is_near


def _distance_to_line(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the distances (N,) of points (N, 3) from the line between two others (3,)."""
    along = ((points - start) @ (end - start) / ((end - start) ** 2).sum()).clip(0, 1)
    return np.sqrt(((points - start - along[:, None] * (end - start)) ** 2).sum(1))


def _cells(rgb: np.ndarray) -> np.ndarray:
    """Return the cell of each pixel, int32 (H, W)."""
    cell = (rgb >> (8 - GRID_BITS)).astype(np.int32)
    return (cell[..., 0] << 2 * GRID_BITS) | (cell[..., 1] << GRID_BITS) | cell[..., 2]
