"""From what a model says about a whole image to class ids at the image's own size; or from colors to an image.

Shapes: K classes; (H, W) the image; (h, w) the model's input.
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitseg.errors import DataError
from vitseg.inference.upsample import best_upsampled
from vitseg.masks import confidence_image


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
    """Round a model's colors, float (3, h, w) in 0–1, to 8 bits and scale them to (H, W), bicubic and antialiased.

    Raises:
        DataError: the colors are not numbers.
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
    """Round colors, float (3, rows, W) in 0–1, to uint8 (rows, W, 3).

    Raises:
        DataError: they are not numbers.
    """
    if not colors.isfinite().all():
        raise DataError("the model's colors are not numbers (NaN or infinite): the bundle is unusable")
    return (colors.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
