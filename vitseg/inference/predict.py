"""From scores at the model's size to class ids at the image's own, in bounded memory; or from colours to an image.

Scores at full size would be 4 · K bytes a pixel: 15 GB for 200 megapixels and 19 classes. So they are made in strips,
and only where they are needed: between four neighbours of one class every mixture of them is of that class, too.

Shapes: K classes; (H, W) the image; (h, w) the model's input.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vitseg.errors import DataError
from vitseg.masks import confidence_image

_STRIP_FLOATS = 4_000_000  # 16 MB of scores at a time
_STRIP_PIXELS = 262_144  # of one class at a time: fits a cache
_MIXED = 255  # no class has this number: it is the ignore index
_FEW = 0.3  # above this share of pixels among different classes, interpolating all of them is quicker


@dataclass(frozen=True)
class Prediction:
    """What a model says about one image."""

    ids: np.ndarray
    """uint8 (H, W): train ids at the image's size."""
    mean_confidence: float
    """Mean probability, 0–1, of the likeliest class."""
    confidence: np.ndarray | None
    """uint8, that probability · 255: (h, w), or (H, W) where tiles were used; None where nobody asked for it."""


@dataclass(frozen=True)
class Painting:
    """What a model without classes makes of one image."""

    colors: np.ndarray
    """uint8 (H, W, 3): RGB at the image's size."""


def paint_resized(colors: Tensor, size: tuple[int, int]) -> Painting:
    """Round a model's colours, float (3, h, w) in 0–1, to 8 bits and scale them to (H, W), bicubic and antialiased.

    Raises:
        DataError: the colours are not numbers.
    """
    small = Image.fromarray(to_bytes(colors))
    return Painting(np.asarray(small.resize((size[1], size[0]), Image.Resampling.BICUBIC)))


def predict_resized(scores: Tensor, size: tuple[int, int]) -> Prediction:
    """Scale scores bilinearly to the image's size, then choose the best class of each pixel.

    Args:
        scores: float (K, h, w), the model's output for the whole image.
        size: (H, W).

    Raises:
        DataError: the scores are not numbers.
    """
    certain = certainty(scores)
    mean = mean_of(float(certain.sum(dtype=torch.float64)), certain.numel())
    return Prediction(best_upsampled(scores, size), mean, confidence_image(certain.numpy()))


def best_upsampled(scores: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Return the argmax, uint8 (H, W), of what `F.interpolate(scores, size, mode="bilinear")` gives.

    Args:
        scores: float (K, h, w).
        size: (H, W).
    """
    if not scores.is_cuda:  # a GPU is quickest with all pixels alike
        best = best_class(scores).numpy()
        mixed = _differ(best)
        if mixed.mean() <= _FEW:
            return _best_where_classes_meet(scores, size, best, mixed)
    height, width = size
    ids = np.empty(size, np.uint8)
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        part = slice(top, min(top + rows, height))
        ids[part] = first_best(_upsampled(scores, size, part)).cpu().numpy()
    return ids


def _best_where_classes_meet(scores: Tensor, size: tuple[int, int], best: np.ndarray, mixed: np.ndarray) -> np.ndarray:
    """Interpolate between scores that differ in their class; elsewhere take the class.

    Args:
        scores: float (K, h, w).
        size: (H, W).
        best: the class of each score, uint8 (h, w).
        mixed: whether that of its right, lower or lower right neighbour is another, bool (h, w).
    """
    best = np.where(mixed, np.uint8(_MIXED), best)
    above, below, down = (side.numpy() for side in _neighbours(size[0], scores.shape[1]))
    left, right, across = (side.numpy() for side in _neighbours(size[1], scores.shape[2]))
    by_pixel = scores.flatten(1).T.contiguous().numpy()  # (h · w, K): the scores of a pixel side by side
    wide, some = scores.shape[2], max(1, _STRIP_FLOATS // scores.shape[0])
    ids = np.empty(size, np.uint8)
    rows = max(1, _STRIP_PIXELS // size[1])
    for top in range(0, size[0], rows):
        part = slice(top, min(top + rows, size[0]))
        ids[part] = best[above[part]][:, left]
        found = np.flatnonzero(ids[part] == _MIXED)
        for first in range(0, len(found), some):
            y, x = np.divmod(found[first : first + some], size[1])
            y += top
            upper, lower = above[y] * wide, below[y] * wide
            share = across[x, None]
            pixels = _lerp(by_pixel, upper + left[x], upper + right[x], share)
            pixels += (_lerp(by_pixel, lower + left[x], lower + right[x], share) - pixels) * down[y, None]
            ids[y, x] = pixels.argmax(1)
    return ids


def _lerp(rows: np.ndarray, first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    start = rows.take(first, 0)
    return start + (rows.take(second, 0) - start) * share


def _differ(best: np.ndarray) -> np.ndarray:
    """Say of each pixel (h, w) whether it, its right, its lower and its lower right neighbour are of several classes."""
    differ = np.zeros(best.shape, bool)  # at the border, the neighbour is the pixel itself
    differ[:, :-1] |= best[:, :-1] != best[:, 1:]
    differ[:-1] |= best[:-1] != best[1:]
    differ[:-1, :-1] |= best[:-1, :-1] != best[1:, 1:]
    return differ


def _neighbours(length: int, given: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return, for each pixel of a longer side, the two scores that it lies between, and its share of the second."""
    # Pixel centres: pixel y of the image lies at (y + 0.5) · h / H - 0.5 of the scores.
    centres = ((torch.arange(length) + 0.5) * (given / length) - 0.5).clamp(0, given - 1)
    first = centres.floor().long()
    return first, (first + 1).clamp(max=given - 1), centres - first


def _upsampled(scores: Tensor, size: tuple[int, int], part: slice) -> Iterator[Tensor]:
    """Yield what `F.interpolate` gives for some rows, (rows, W), class by class."""
    above, below, down = (side[part].to(scores.device) for side in _neighbours(size[0], scores.shape[1]))
    for plane in scores:
        mixed = torch.lerp(plane[above], plane[below], down[:, None].to(plane.dtype))
        # Its height stays as it is, so this interpolates along rows only.
        shape = (len(mixed), size[1])
        yield F.interpolate(mixed[None, None], size=shape, mode="bilinear", align_corners=False)[0, 0]


def best_class(scores: Tensor) -> Tensor:
    """Return the argmax of (K, rows, W) over its classes, uint8 (rows, W): of equals the first."""
    return first_best(iter(scores))


def first_best(planes: Iterator[Tensor]) -> Tensor:
    """Return the number of the plane whose score is largest, uint8 (rows, W): of equals the first.

    Plane by plane, each pass within the cache: many times as fast on a processor as torch's max over a leading dimension.
    """
    best = next(planes).clone()
    ids = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
    for number, plane in enumerate(planes, start=1):
        better = (plane > best).view(torch.uint8).mul_(number)  # numbers grow: the last that was better is the largest
        torch.maximum(ids, better, out=ids)
        torch.maximum(best, plane, out=best)
    return ids


def certainty(scores: Tensor) -> Tensor:
    """Return the probability, 0–1, of the likeliest class: (K, rows, W) → float32 (rows, W)."""
    if scores.is_cuda:
        return scores.float().softmax(0).amax(0).cpu()
    planes = scores.float().numpy()
    most = planes.max(0)
    total, term = np.zeros_like(most), np.empty_like(most)
    for plane in planes:  # softmax of the largest, within the cache
        np.subtract(plane, most, out=term)
        total += np.exp(term, out=term)
    return torch.from_numpy(1 / total)


def mean_of(total: float, count: int) -> float:
    """Return a mean.

    Raises:
        DataError: it is no number, for the model's scores were not.
    """
    if not np.isfinite(total):
        raise DataError("the model's scores are not numbers (NaN or infinite): the bundle is unusable")
    return total / count


def to_bytes(colors: Tensor) -> np.ndarray:
    """Round colours, float (3, rows, W) in 0–1, to uint8 (rows, W, 3).

    Raises:
        DataError: they are not numbers.
    """
    if not colors.isfinite().all():
        raise DataError("the model's colours are not numbers (NaN or infinite): the bundle is unusable")
    return (colors.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
