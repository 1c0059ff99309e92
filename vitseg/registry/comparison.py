"""Two models on the same images: how they differ, and between which bounds that would lie on other such images.

Intervals are those of a paired bootstrap (https://doi.org/10.1214/aos/1176344552): images are drawn anew, with
replacement, a thousand times, each time the same ones for both models. mIoU is computed from the confusion matrix of
all images drawn, as the benchmark does, not as a mean over images.
"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vitseg.data.manifest import Manifest
from vitseg.errors import DataError

_DRAWS = 1000
_SEED = 0
_COVERED = 0.95


@dataclass(frozen=True)
class Result:
    """How one model did on the images of a comparison."""

    classes: tuple[str, ...]
    """Names; none: the model gives images."""
    samples: int
    """Images it was measured on."""
    images: Tensor | None
    """Confusion matrices, one an image, int64 (N, K, K); None without classes."""
    psnr: float
    """Decibels, of the colors."""
    images_per_second: float
    """Of forward passes."""
    worst_seam: float = math.nan
    """The seam ratio furthest from 1."""

    @property
    def confusion(self) -> Tensor:
        """Confusion matrix of all images, int64 (K, K)."""
        return torch.zeros(0, 0, dtype=torch.int64) if self.images is None else self.images.sum(0)


@dataclass(frozen=True)
class Difference:
    """A metric of two models, and B minus A with its 95 % interval; None where a class occurs nowhere."""

    a: float | None
    b: float | None
    delta: float | None
    low: float | None
    high: float | None

    @property
    def sure(self) -> bool:
        """Whether all of the interval lies on one side of 0: other images would hardly turn the order round."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def differences(a: Tensor, b: Tensor, classes: tuple[str, ...]) -> dict[str, Difference]:
    """Compare two models by what they did on each of the same images.

    Args:
        a: confusion matrices, one an image, int64 (N, K, K), rows = truth.
        b: of the other model, on the same images in the same order.
        classes: K names.

    Returns:
        `miou`, `pixel_accuracy`, and `iou/CLASS` for each class.

    Raises:
        DataError: there are no images, or they are not the same.
    """
    if a.shape != b.shape or not len(a):
        raise DataError(f"two models can't be compared on {len(a)} and {len(b)} images")
    if not torch.equal(a.sum(2), b.sum(2)):
        raise DataError("two models can't be compared on images with different labels")
    counts = np.random.default_rng(_SEED).multinomial(len(a), [1 / len(a)] * len(a), size=_DRAWS)
    draws = torch.from_numpy(counts).double()
    names = ["miou", "pixel_accuracy", *(f"iou/{name}" for name in classes)]
    whole = torch.ones(1, len(a), dtype=torch.float64)
    of_a, of_b = (_scores(whole, one)[0] for one in (a, b))
    spread = _scores(draws, b) - _scores(draws, a)
    found = {}
    for index, name in enumerate(names):
        here, there = float(of_a[index]), float(of_b[index])
        drawn = spread[:, index][spread[:, index].isfinite()]
        edges = torch.tensor([(1 - _COVERED) / 2, (1 + _COVERED) / 2], dtype=torch.float64)
        low, high = drawn.quantile(edges).tolist() if len(drawn) else (math.nan, math.nan)
        found[name] = Difference(*(_number(value) for value in (here, there, there - here, low, high)))
    return found


def holdout_digest(manifest: Manifest, split: str) -> str:
    """Return 16 hex digits of what a split holds: equal digests, the very same samples."""
    content = "".join(f"{shard.sha256}\n" for shard in manifest.splits[split].shards)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _scores(draws: Tensor, matrices: Tensor) -> Tensor:
    """Return mIoU, pixel accuracy and IoUs, float64 (D, 2 + K), of sums of matrices (N, K, K) by counts (D, N)."""
    summed = (draws @ matrices.double().flatten(1)).view(len(draws), *matrices.shape[1:])
    hits = summed.diagonal(dim1=1, dim2=2)
    unions = summed.sum(1) + summed.sum(2) - hits
    ious = hits / unions.where(unions > 0, math.nan)
    accuracy = hits.sum(1) / summed.sum((1, 2))
    return torch.cat([ious.nanmean(1, keepdim=True), accuracy[:, None], ious], dim=1)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
