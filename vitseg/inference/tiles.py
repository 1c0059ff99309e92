"""Slide the model over an image at its own scale, and blend where windows overlap by half, in bounded memory.

Scores count most in the middle of a window and least at its border, so that no seams show. Held in memory are the
photograph's rows under one band of windows, and the scores of a stripe of some 4,096 columns, 4 · K · h bytes for each,
where the model computes them: from a GPU only class ids come back.

Shapes: K classes; (H, W) the image; (h, w) the window, which is the model's input.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vitseg.images.rows import Photo
from vitseg.inference.upsample import (
    ImagePrediction,
    MaskPrediction,
    best_class,
    certainty,
    finite_mean,
    to_bytes,
    unit_bytes,
)

Network = Callable[[Tensor], Tensor]
"""uint8 (B, 3, h, w) → scores (B, K, h, w), or colors (B, 3, h, w)."""

_BLOCK = 2048  # columns
_STRIPE = 4096  # columns whose scores are held at a time
_CPU = torch.device("cpu")


def predict_tiled(
    network: Network, photo: Photo, window: tuple[int, int], batch_size: int, device: torch.device = _CPU, *,
    keep_confidence: bool = False,
) -> MaskPrediction:  # fmt: skip
    """Choose the best class of each pixel of a photograph; DataError if the scores are not numbers.

    `window` is (h, w), `batch_size` the windows a forward pass, `device` that of the model; `keep_confidence` takes another
    byte for each pixel.
    """
    ids = np.empty(photo.size, np.uint8)
    confidence = np.empty(photo.size, np.uint8) if keep_confidence else None
    total = torch.zeros((), dtype=torch.float64, device=device)
    for place, scores in _blended(network, photo, window, batch_size, device):
        ids[place] = best_class(scores).cpu().numpy()
        certain = certainty(scores)
        total += certain.sum(dtype=torch.float64)
        if confidence is not None:
            confidence[place] = unit_bytes(certain).cpu().numpy()
    return MaskPrediction(ids, finite_mean(float(total), ids.size), confidence)


def predict_colors_tiled(
    network: Network, photo: Photo, window: tuple[int, int], batch_size: int, device: torch.device = _CPU
) -> ImagePrediction:
    """Do what `predict_tiled` does for the colors (B, 3, h, w), 0–1, of a model without classes."""
    colors = np.empty((*photo.size, 3), np.uint8)
    for place, block in _blended(network, photo, window, batch_size, device):
        colors[place] = to_bytes(block)
    return ImagePrediction(colors)


def _blended(
    network: Network, photo: Photo, window: tuple[int, int], batch_size: int, device: torch.device
) -> Iterator[tuple[tuple[slice, slice], Tensor]]:
    """Yield the photograph block by block: the place, and its blended scores (K, rows, columns)."""
    width = max(window[1], photo.size[1])
    lefts = _starts(width, window[1])
    some = max(1, _STRIPE // window[1]) * window[1]
    for start in range(0, width, some):
        # Windows across the border of two stripes are predicted twice, so that each stripe is whole.
        columns = slice(start, min(start + some, width))
        over = [left for left in lefts if left < columns.stop and left + window[1] > columns.start]
        yield from _blended_stripe(network, photo, window, batch_size, device, columns, over)


def _blended_stripe(
    network: Network, photo: Photo, window: tuple[int, int], batch_size: int, device: torch.device,
    columns: slice, lefts: list[int],
) -> Iterator[tuple[tuple[slice, slice], Tensor]]:  # fmt: skip
    """Do what `_blended` does for some columns, under the windows that reach them."""
    size, edge = photo.size, lefts[0]
    height = max(window[0], size[0])
    right = min(columns.stop, size[1])
    tops = _starts(height, window[0])
    blend = torch.outer(_tent(window[0]), _tent(window[1])).to(device)
    total = torch.zeros(0)
    weight = torch.zeros(window[0], lefts[-1] + window[1] - edge, device=device)
    for top, following in zip(tops, [*tops[1:], height], strict=True):
        rows = photo.rows(top, min(top + window[0], size[0]))[:, edge : lefts[-1] + window[1]]
        missing = [(0, full - given) for full, given in zip(weight.shape, rows.shape[:2], strict=True)]
        planes = (
            torch.from_numpy(np.pad(rows, (*missing, (0, 0)), mode="edge")).to(device).permute(2, 0, 1).contiguous()
        )
        for first in range(0, len(lefts), batch_size):
            group = [left - edge for left in lefts[first : first + batch_size]]
            scores = network(torch.stack([planes[:, :, left : left + window[1]] for left in group]))
            if not total.numel():
                total = torch.zeros(scores.shape[1], *weight.shape, device=device)
            for left, window_scores in zip(group, scores, strict=True):
                total[:, :, left : left + window[1]] += window_scores.float() * blend
                weight[:, left : left + window[1]] += blend
        finished = following - top  # no later window reaches these
        shown = min(finished, size[0] - top)  # the rest is padding of a photograph smaller than the window
        for left in range(columns.start, right, _BLOCK):
            block = slice(left, min(left + _BLOCK, right))
            there = slice(block.start - edge, block.stop - edge)
            yield (slice(top, top + shown), block), total[:, :shown, there] / weight[:shown, there]
        for plane in (*total, weight):  # one by one: all at once would be as much again
            plane.copy_(F.pad(plane[finished:], (0, 0, 0, finished)))


def _starts(length: int, window: int) -> list[int]:
    return [*range(0, length - window, max(1, window // 2)), length - window]


def _tent(length: int) -> Tensor:
    return 1 - ((torch.arange(length) + 0.5) * 2 / length - 1).abs()
