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

_STRIP_FLOATS = 4_000_000  # 16 MB of scores at a time: fits a cache better than the whole, too
_STRIP_PIXELS = 1_000_000
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
    count, given, wide = scores.shape
    height, width = size
    best = best_class(scores)
    mixed = _differ(best)
    above, below, down = _neighbours(height, given, scores.device)
    left, right, across = _neighbours(width, wide, scores.device)
    rows_of_scores = scores.flatten(1).T.contiguous()  # (h · w, K): the scores of a pixel side by side
    ids = np.empty(size, np.uint8)
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        part = slice(top, min(top + rows, height))
        strip = best[above[part]][:, left]
        here = mixed[above[part]][:, left]
        if float(here.float().mean()) > _FEW:
            for start, whole in _upsampled_strips(scores, size, part):
                ids[start : start + whole.shape[1]] = best_class(whole).cpu().numpy()
            continue
        for y, x in zip(
            *(axis.split(max(1, _STRIP_FLOATS // count)) for axis in here.nonzero(as_tuple=True)), strict=True
        ):
            upper, lower = above[part][y] * wide, below[part][y] * wide
            share = across[x][:, None]
            corners = (rows_of_scores[line + side[x]] for line in (upper, lower) for side in (left, right))
            first, second, third, fourth = corners
            pixels = torch.lerp(
                torch.lerp(first, second, share), torch.lerp(third, fourth, share), down[part][y][:, None]
            )
            strip[y, x] = pixels.argmax(1).to(torch.uint8)
        ids[part] = strip.cpu().numpy()
    return ids


def _differ(best: Tensor) -> Tensor:
    """Say of each pixel (h, w) whether it, its right, its lower and its lower right neighbour are of several classes."""
    framed = F.pad(best[None, None].float(), (0, 1, 0, 1), mode="replicate")[0, 0]
    corners = [framed[:-1, :-1], framed[:-1, 1:], framed[1:, :-1], framed[1:, 1:]]
    return torch.stack([corners[0] != corner for corner in corners[1:]]).any(0)


def _neighbours(length: int, given: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return, for each pixel of a longer side, the two scores that it lies between, and its share of the second."""
    # Pixel centres: pixel y of the image lies at (y + 0.5) · h / H - 0.5 of the scores.
    centres = ((torch.arange(length, device=device) + 0.5) * (given / length) - 0.5).clamp(0, given - 1)
    first = centres.floor().long()
    return first, (first + 1).clamp(max=given - 1), centres - first


def _upsampled_strips(scores: Tensor, size: tuple[int, int], part: slice) -> Iterator[tuple[int, Tensor]]:
    """Yield what `F.interpolate` gives for some rows, (K, rows, W) at a time, each with its first row."""
    count, given, _ = scores.shape
    height, width = size
    rows = max(1, _STRIP_FLOATS // (count * width))
    above, below, down = _neighbours(height, given, scores.device)
    for top in range(part.start, part.stop, rows):
        some = slice(top, min(top + rows, part.stop))
        mixed = torch.lerp(scores[:, above[some]], scores[:, below[some]], down[some, None].to(scores.dtype))
        # Its height stays as it is, so this interpolates along rows only.
        shape = (mixed.shape[1], width)
        yield top, F.interpolate(mixed[None], size=shape, mode="bilinear", align_corners=False)[0]


def best_class(scores: Tensor) -> Tensor:
    """Return the argmax of (K, rows, W) over its classes, uint8 (rows, W): of equals the first."""
    # Class by class, each pass within the cache: twice as fast as torch's max over a leading dimension.
    ids = torch.zeros(scores.shape[1:], dtype=torch.uint8, device=scores.device)
    best = scores[0].clone()
    for number in range(1, len(scores)):
        ids.masked_fill_(scores[number] > best, number)
        torch.maximum(best, scores[number], out=best)
    return ids


def certainty(scores: Tensor) -> Tensor:
    """Return the probability, 0–1, of the likeliest class: (K, rows, W) → float32 (rows, W)."""
    return scores.float().softmax(0).amax(0).cpu()


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
