"""From what a model says about a whole image to class ids at the image's own size; or from colors to an image.

Shapes: K classes; (H, W) the image; (h, w) the model's input.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitseg.errors import DataError
from vitseg.inference.device import bf16
from vitseg.inference.upsample import best_upsampled
from vitseg.masks import confidence_image
from vitseg.model.bundle import Bundle

Moments = tuple[float, float] | None


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


def stack_planes(images: Iterable[np.ndarray]) -> Tensor:
    """Stack images uint8 (h, w, 3) of one size as a batch: uint8 (B, 3, h, w)."""
    return torch.from_numpy(np.stack(list(images))).permute(0, 3, 1, 2).contiguous()


def forward(
    bundle: Bundle, images: Tensor, device: torch.device, *, flip: bool = False, moments: Moments = None
) -> Tensor:
    """Return scores (B, K, h, w), or colors (B, 3, h, w), of images uint8 (B, 3, h, w).

    Args:
        bundle: the model.
        images: of the model's size.
        device: that of the model.
        flip: also predict the mirrored images, and return the mean of both outputs.
        moments: mean and deviation of the photograph, where the images are windows of it.
    """
    network = bundle.predict if bundle.classes else bundle.colors
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16(device)):
        output = network(images, moments=moments)
        if flip:
            output = (output + network(images.flip(-1), moments=moments).flip(-1)) / 2
    return output


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
