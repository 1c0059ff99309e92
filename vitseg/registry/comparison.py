"""Two models on the same images: the differences of their metrics, with 95% intervals.

Intervals come from a paired bootstrap (https://doi.org/10.1214/aos/1176344552): images are drawn with replacement, a
thousand times, and each time the same ones for both models. mIoU is computed from the confusion matrix of all drawn
images, as the benchmark does, not as a mean over images.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vitseg.errors import DataError

_DRAWS = 1000
_SEED = 0
_COVERAGE = 0.95


@dataclass(frozen=True)
class Difference:
    """A metric of two models, and B minus A with its 95% interval; None for a class without any pixel."""

    a: float | None
    b: float | None
    delta: float | None
    low: float | None
    high: float | None

    @property
    def is_significant(self) -> bool:
        """Whether the whole interval lies on one side of 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def differences(a: Tensor, b: Tensor, classes: tuple[str, ...]) -> dict[str, Difference]:
    """Compare two models by their confusion matrices, int64 (N, C, C), rows = ground truth, of the same N images in order.

    `classes` are the names of the first of the C classes; the others are not compared (see `Evaluation.over`). The result
    has `miou`, `pixel_accuracy`, and `iou/CLASS` for each class.

    Raises:
        DataError: there are no images, or they are not the same.
    """
    if len(a) != len(b) or not len(a):
        raise DataError(f"two models can't be compared on {len(a)} and {len(b)} images")
    pixels_a, pixels_b = (matrices.sum(2)[:, : len(classes)] for matrices in (a, b))
    if not torch.equal(pixels_a, pixels_b):
        raise DataError("two models can't be compared on images with different labels")
    counts = np.random.default_rng(_SEED).multinomial(len(a), [1 / len(a)] * len(a), size=_DRAWS)
    draws = torch.from_numpy(counts).double()
    names = ["miou", "pixel_accuracy", *(f"iou/{name}" for name in classes)]
    every_image = torch.ones(1, len(a), dtype=torch.float64)
    scores_a, scores_b = (_scores(every_image, matrices, len(classes))[0].tolist() for matrices in (a, b))
    deltas = _scores(draws, b, len(classes)) - _scores(draws, a, len(classes))
    result = {}
    for name, score_a, score_b, drawn in zip(names, scores_a, scores_b, deltas.unbind(1), strict=True):
        finite = drawn[drawn.isfinite()]
        edges = torch.tensor([(1 - _COVERAGE) / 2, (1 + _COVERAGE) / 2], dtype=torch.float64)
        low, high = finite.quantile(edges).tolist() if len(finite) else (math.nan, math.nan)
        values = (score_a, score_b, score_b - score_a, low, high)
        result[name] = Difference(*(value if math.isfinite(value) else None for value in values))
    return result


def _scores(draws: Tensor, matrices: Tensor, classes: int) -> Tensor:
    """Return mIoU, pixel accuracy and IoUs, float64 (D, 2 + K), of sums of matrices (N, C, C) by counts (D, N).

    K are the first `classes` of C; see `Scores.from_confusion`.
    """
    summed = (draws @ matrices.double().flatten(1)).view(len(draws), *matrices.shape[1:])
    parts = (summed.diagonal(dim1=1, dim2=2), summed.sum(2), summed.sum(1))
    hits, rows, columns = (part[:, :classes] for part in parts)
    unions = rows + columns - hits
    ious = hits / unions.where(unions > 0, math.nan)
    accuracy = hits.sum(1) / rows.sum(1)
    return torch.cat([ious.nanmean(1, keepdim=True), accuracy[:, None], ious], dim=1)
