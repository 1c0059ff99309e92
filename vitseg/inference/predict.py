"""From scores at the model's size to class ids at the image's own, in bounded memory; or from colours to an image.

Scores at full size would be 4 · K bytes a pixel: 15 GB for 200 megapixels and 19 classes. So they are
made and used up in horizontal strips.

Shapes: K classes; (H, W) the image; (h, w) the model's input.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from vitseg.errors import DataError

_STRIP_FLOATS = 4_000_000  # 16 MB of scores at a time: fits a cache better than the whole, too

_BAND = 256


@dataclass(frozen=True)
class Prediction:
    """What a model says about one image."""

    ids: np.ndarray
    """uint8 (H, W): train ids at the image's size."""
    confidence: np.ndarray
    """float32, probability 0–1 of the likeliest class: (h, w), or (H, W) where tiles were used."""

    @property
    def mean_confidence(self) -> float:
        """Mean of `confidence`, 0–1.

        Raises:
            DataError: the model's scores were not numbers.
        """
        mean = float(self.confidence.mean(dtype=np.float64))
        if not np.isfinite(mean):
            raise DataError("the model's scores are not numbers (NaN or infinite): the bundle is unusable")
        return mean


@dataclass(frozen=True)
class Painting:
    """What a model without classes makes of one image."""

    colors: np.ndarray
    """uint8 (H, W, 3): RGB at the image's size."""


def paint_resized(colors: torch.Tensor, size: tuple[int, int]) -> Painting:
    """Round a model's colours, float (3, h, w) in 0–1, to 8 bits and scale them to (H, W), bicubic and antialiased.

    Raises:
        DataError: the colours are not numbers.
    """
    small = Image.fromarray(_bytes(colors))
    return Painting(np.asarray(small.resize((size[1], size[0]), Image.Resampling.BICUBIC)))


def paint_tiled(
    paint: Callable[[torch.Tensor], torch.Tensor], photo: np.ndarray, window: tuple[int, int], batch_size: int
) -> Painting:
    """Do what `predict_tiled` does for the colours (B, 3, h, w), 0–1, of a model without classes.

    Raises:
        DataError: the colours are not numbers.
    """
    colors = np.empty(photo.shape, np.uint8)
    for rows, band in _tiled_bands(paint, photo, window, batch_size):
        colors[rows] = _bytes(band)
    return Painting(colors)


def predict_resized(scores: torch.Tensor, size: tuple[int, int]) -> Prediction:
    """Scale scores bilinearly to the image's size, then choose the best class of each pixel.

    Args:
        scores: float (K, h, w), the model's output for the whole image.
        size: (H, W).
    """
    ids = np.empty(size, np.uint8)
    top = 0
    for strip in upsampled_strips(scores, size):
        bottom = top + strip.shape[1]
        ids[top:bottom] = _best(strip)
        top = bottom
    return Prediction(ids, _certainty(scores))


def upsampled_strips(scores: torch.Tensor, size: tuple[int, int]) -> Iterator[torch.Tensor]:
    """Yield what `F.interpolate(scores, size, mode="bilinear")` gives, (K, rows, W) at a time, from the top.

    Args:
        scores: float (K, h, w).
        size: (H, W).
    """
    classes, given, _ = scores.shape
    height, width = size
    rows = max(1, _STRIP_FLOATS // (classes * width))
    # Pixel centres: row y of the image lies at (y + 0.5) · h / H - 0.5 of the scores.
    centres = (torch.arange(height, device=scores.device) + 0.5) * (given / height) - 0.5
    centres = centres.clamp(0, given - 1)
    above = centres.floor().long()
    below = (above + 1).clamp(max=given - 1)
    share = (centres - above).to(scores.dtype)[None, :, None]
    for top in range(0, height, rows):
        part = slice(top, min(top + rows, height))
        mixed = torch.lerp(scores[:, above[part]], scores[:, below[part]], share[:, part])
        # Its height stays as it is, so this interpolates along rows only.
        shape = (mixed.shape[1], width)
        yield F.interpolate(mixed[None], size=shape, mode="bilinear", align_corners=False)[0]


def predict_tiled(
    predict: Callable[[torch.Tensor], torch.Tensor],
    photo: np.ndarray,
    window: tuple[int, int],
    batch_size: int,
) -> Prediction:
    """Slide the model over the image at its own scale, and average where windows overlap by half.

    Scores count most in the middle of a window and least at its border, so that no seams show. Only the
    scores of one band of windows are held: 4 · K · h · W bytes.

    Args:
        predict: uint8 (B, 3, h, w) → scores (B, K, h, w).
        photo: uint8 (H, W, 3).
        window: (h, w).
        batch_size: windows a forward pass.
    """
    ids = np.empty(photo.shape[:2], np.uint8)
    confidence = np.empty(photo.shape[:2], np.float32)
    for rows, band in _tiled_bands(predict, photo, window, batch_size):
        ids[rows], confidence[rows] = _best(band), _certainty(band)
    return Prediction(ids, confidence)


def _tiled_bands(
    predict: Callable[[torch.Tensor], torch.Tensor], photo: np.ndarray, window: tuple[int, int], batch_size: int
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield the image in bands from the top: its rows, and their blended scores (K, rows, W)."""
    size = photo.shape[:2]
    missing = [max(0, side - given) for side, given in zip(window, size, strict=True)]
    photo = np.pad(photo, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    height, width = photo.shape[:2]
    lefts = _starts(width, window[1])
    tops = _starts(height, window[0])
    blend = torch.outer(_tent(window[0]), _tent(window[1]))
    total = torch.zeros(0)
    weight = torch.zeros(window[0], width)
    for top, following in zip(tops, [*tops[1:], height], strict=True):
        for first in range(0, len(lefts), batch_size):
            group = lefts[first : first + batch_size]
            cut = np.stack([photo[top : top + window[0], left : left + window[1]] for left in group])
            scores = predict(torch.from_numpy(cut).permute(0, 3, 1, 2).contiguous()).float().cpu()
            if not total.numel():
                total = torch.zeros(scores.shape[1], window[0], width)
            for left, window_scores in zip(group, scores, strict=True):
                total[:, :, left : left + window[1]] += window_scores * blend
                weight[:, left : left + window[1]] += blend
        rows = following - top  # no later window reaches these
        finished = total[:, :rows] / weight[:rows]
        yield slice(top, following), finished[:, : size[0] - top, : size[1]]
        total = F.pad(total[:, rows:], (0, 0, 0, rows))
        weight = F.pad(weight[rows:], (0, 0, 0, rows))


def pixel_moments(photo: np.ndarray) -> tuple[float, float]:
    """Return mean and deviation of all values of a photograph uint8 (H, W, 3), exactly and in bounded memory."""
    counts = np.zeros(256, np.int64)
    for top in range(0, len(photo), _BAND):
        counts += np.bincount(photo[top : top + _BAND].ravel(), minlength=256)
    values = np.arange(256)
    mean = float(values @ counts / counts.sum())
    return mean, float(((values - mean) ** 2 @ counts / counts.sum()) ** 0.5)


def _best(scores: torch.Tensor) -> np.ndarray:
    # (K, rows, W) -> uint8 (rows, W). max is twice as fast as argmax over a leading dimension.
    return scores.max(0).indices.to(torch.uint8).cpu().numpy()


def _bytes(colors: torch.Tensor) -> np.ndarray:
    # (3, rows, W) in 0-1 -> uint8 (rows, W, 3).
    if not colors.isfinite().all():
        raise DataError("the model's colours are not numbers (NaN or infinite): the bundle is unusable")
    return (colors.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def _certainty(scores: torch.Tensor) -> np.ndarray:
    return scores.float().softmax(0).amax(0).cpu().numpy()


def _starts(length: int, window: int) -> list[int]:
    return [*range(0, length - window, max(1, window // 2)), length - window]


def _tent(length: int) -> torch.Tensor:
    return 1 - ((torch.arange(length) + 0.5) * 2 / length - 1).abs()
