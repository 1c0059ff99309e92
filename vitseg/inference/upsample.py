"""From the model's output at its own size to the mask, or the image, at the photograph's size, in bounded memory.

Scores at full size would take 4 · K bytes a pixel: 15 GB for 200 megapixels and 19 classes. So they are made a part at a
time, and only where they are needed: between four neighbors of one class every mixture of them is of that class, too.

Shapes: K classes; (H, W) the photograph; (h, w) the model's input.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vitseg.errors import DataError
from vitseg.masks import confidence_image

_AT_ONCE = 131_072  # pixels of one class: fits a cache
_WIDE = 1_048_576  # columns; of a wider image, a single row would be too much at once
_MANY = 0.8  # with a larger share of cells between different classes, treating all pixels alike is quicker


@dataclass(frozen=True)
class MaskPrediction:
    """What a model with classes predicts for one photograph."""

    ids: np.ndarray
    """uint8 (H, W): train ids."""
    mean_confidence: float
    """Mean probability, 0–1, of the likeliest class."""
    confidence: np.ndarray | None
    """uint8, that probability · 255: (h, w), or (H, W) where tiles were used; None where it isn't needed."""


@dataclass(frozen=True)
class ImagePrediction:
    """What a model without classes predicts for one photograph."""

    colors: np.ndarray
    """uint8 (H, W, 3): RGB."""


def upsample_scores(scores: Tensor, size: tuple[int, int]) -> MaskPrediction:
    """Scale scores, float (K, h, w), bilinearly to (H, W), then choose the best class of each pixel.

    Raises:
        DataError: the scores are not numbers.
    """
    certain = certainty(scores)
    mean = finite_mean(float(certain.sum(dtype=torch.float64)), certain.numel())
    return MaskPrediction(best_upsampled(scores, size), mean, confidence_image(certain.numpy()))


def upsample_colors(colors: Tensor, size: tuple[int, int]) -> ImagePrediction:
    """Round a model's colors, float (3, h, w) in 0–1, to 8 bits and scale them to (H, W), bicubic and antialiased.

    Raises:
        DataError: the colors are not numbers.
    """
    return resize_colors(to_bytes(colors), size)


def resize_colors(colors: np.ndarray, size: tuple[int, int]) -> ImagePrediction:
    """Scale colors, uint8 (h, w, 3), to (H, W), bicubic and antialiased."""
    small = Image.fromarray(colors)
    return ImagePrediction(np.asarray(small.resize((size[1], size[0]), Image.Resampling.BICUBIC)))


def best_upsampled(scores: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Return the argmax, uint8 (H, W), of what `F.interpolate(scores, size, mode="bilinear")` gives, on the processor."""
    # With its border repeated, every pixel lies in a cell, between four scores.
    padded = F.pad(scores[None], (1, 1, 1, 1), mode="replicate")[0]
    best = first_best(iter(padded)).numpy()
    first = best[:-1, :-1]
    mixed = (first != best[:-1, 1:]) | (first != best[1:, :-1]) | (first != best[1:, 1:])
    if mixed.mean() <= _MANY or size[1] > _WIDE:
        return _by_cells(padded, size, first, mixed)
    ids = np.empty(size, np.uint8)
    rows = max(1, _AT_ONCE // size[1])
    for top in range(0, size[0], rows):
        part = slice(top, min(top + rows, size[0]))
        ids[part] = first_best(upsampled_rows(scores, size, part)).numpy()
    return ids


class _Cells(NamedTuple):
    """Which pixels of one side lie in each of its cells, those between two scores that are neighbors."""

    held: np.ndarray  # int64 (cells,): pixels
    pixels: np.ndarray  # int64 (most, cells): their places; where a cell has fewer, its last one again
    share: np.ndarray  # float32 (most, cells): of the second score


def _cells(length: int, given: int) -> _Cells:
    """Divide a side of `length` pixels among the given + 1 cells of a padded side of scores."""
    # Pixel centers: pixel y of the image lies at (y + 0.5) · h / H - 0.5 of the scores, one further with their border.
    centers = (np.arange(length) + 0.5) * (given / length) + 0.5
    cells = np.arange(given + 1)
    start, stop = (np.searchsorted(centers.astype(np.int64), cells, side) for side in ("left", "right"))
    count = stop - start
    pixels = start + np.minimum(np.arange(count.max())[:, None], np.maximum(count - 1, 0))
    pixels = np.minimum(pixels, length - 1)
    return _Cells(count, pixels, (centers[pixels] - cells).astype(np.float32))


def _by_cells(padded: Tensor, size: tuple[int, int], first: np.ndarray, mixed: np.ndarray) -> np.ndarray:
    """Interpolate the scores (K, h + 2, w + 2) in cells whose corners differ in their class; elsewhere take that class.

    Of each cell (h + 1, w + 1), `first` is its upper left corner's class, and `mixed` whether there are others.
    """
    down, across = (_cells(length, given - 2) for length, given in zip(size, padded.shape[1:], strict=True))
    sides = [(0, down.held), (1, across.held)]
    if size[0] * first.shape[1] > first.shape[0] * size[1]:  # a very tall image would be large in between
        sides.reverse()
    ids = first
    for axis, held in sides:
        ids = ids.repeat(held, axis)
    flat, scores, wide = ids.reshape(-1), padded.flatten(1), padded.shape[2]
    rows, columns = np.nonzero(mixed & (down.held > 0)[:, None] & (across.held > 0))
    some = max(1, _AT_ONCE // (len(down.share) * len(across.share)))
    for start in range(0, len(rows), some):
        y, x = rows[start : start + some], columns[start : start + some]
        at = torch.from_numpy(y * wide + x)
        corners = [scores.index_select(1, at + step) for step in (0, wide, 1, wide + 1)]
        shares = torch.from_numpy(down.share[:, None, y]), torch.from_numpy(across.share[None, :, x])
        places = down.pixels[:, None, y] * size[1] + across.pixels[None, :, x]
        flat[places] = first_best(_mixtures(corners, *shares)).numpy()
    return ids


def _mixtures(corners: list[Tensor], down: Tensor, across: Tensor) -> Iterator[Tensor]:
    """Yield the scores of all pixels of n cells, (rows, columns, n), class by class.

    `corners` are (K, n) each; `down` (rows, 1, n) and `across` (1, columns, n) the shares of the lower and right ones.
    """
    for upper_left, lower_left, upper_right, lower_right in zip(*corners, strict=True):
        left = torch.addcmul(upper_left, lower_left - upper_left, down)
        right = torch.addcmul(upper_right, lower_right - upper_right, down)
        yield torch.addcmul(left, right - left, across)


def upsampled_rows(scores: Tensor, size: tuple[int, int], part: slice) -> Iterator[Tensor]:
    """Yield what `F.interpolate` gives for some rows, (rows, W), class by class."""
    given = scores.shape[1]
    rows = torch.arange(size[0], device=scores.device)[part]
    centers = ((rows + 0.5) * (given / size[0]) - 0.5).clamp(0, given - 1)
    above = centers.floor().long()
    below, down = (above + 1).clamp(max=given - 1), (centers - above)[:, None].to(scores.dtype)
    for plane in scores:
        mixed = torch.lerp(plane[above], plane[below], down)
        # Its height stays as it is, so this interpolates along rows only.
        shape = (len(mixed), size[1])
        yield F.interpolate(mixed[None, None], size=shape, mode="bilinear", align_corners=False)[0, 0]


def best_class(scores: Tensor) -> Tensor:
    """Return the class whose score (K, rows, W) is largest, uint8 (rows, W) on the same device: of equals the first."""
    return scores.argmax(0).to(torch.uint8) if scores.is_cuda else first_best(iter(scores))


def first_best(planes: Iterator[Tensor]) -> Tensor:
    """Return the number of the plane whose score is largest, uint8: of equals the first.

    Plane by plane, each pass within the cache: on the processor many times as fast as torch's max over a leading dimension
    (and torch's `>` takes four times as long as numpy's).
    """
    top = next(planes).clone()
    ids = torch.zeros(top.shape, dtype=torch.uint8)
    best, numbers = top.numpy(), ids.numpy()
    for number, values in enumerate(map(Tensor.numpy, planes), start=1):
        better = (values > best).view(np.uint8) * np.uint8(number)  # numbers grow: the largest is that of the last
        np.maximum(numbers, better, out=numbers)
        np.maximum(best, values, out=best)
    return ids


def certainty(scores: Tensor) -> Tensor:
    """Return the probability, 0–1, of the likeliest class: (K, rows, W) → float32 (rows, W) on the same device."""
    if scores.is_cuda:
        return scores.softmax(0).amax(0)
    planes = scores.float().numpy()
    most = planes.max(0)
    total, term = np.zeros_like(most), np.empty_like(most)
    for plane in planes:  # softmax of the largest, within the cache
        np.subtract(plane, most, out=term)
        total += np.exp(term, out=term)
    return torch.from_numpy(1 / total)


def finite_mean(total: float, count: int) -> float:
    """Divide a sum by its count; DataError where it is not finite, because the model's scores are not."""
    if not np.isfinite(total):
        raise DataError("the model's scores are not numbers (NaN or infinite): the bundle is unusable")
    return total / count


def to_bytes(colors: Tensor) -> np.ndarray:
    """Round colors, float (3, rows, W) in 0–1, to uint8 (rows, W, 3); DataError where they are not numbers."""
    if not colors.isfinite().all():
        raise DataError("the model's colors are not numbers (NaN or infinite): the bundle is unusable")
    return unit_bytes(colors).permute(1, 2, 0).cpu().numpy()


def unit_bytes(values: Tensor) -> Tensor:
    """Round values in 0–1 to uint8, 0–255."""
    return (values.clamp(0, 1) * 255).round().to(torch.uint8)
