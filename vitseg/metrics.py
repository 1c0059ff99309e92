"""How good masks are: a confusion matrix, and the scores of the Cityscapes benchmark that follow from it.

The matrices of batches and ranks add up, so a score over a split is exact however the split was cut.
Definitions: https://www.cityscapes-dataset.com/benchmarks/ (pixel-level semantic labeling), as the official
`cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling` computes them; a test compares the two:

- Pixels whose true class is not evaluated count nowhere, whatever is predicted there.
- A class that is predicted but never true has IoU 0, and the mean counts it.
- A class that is neither true nor predicted on any counted pixel has no IoU, and the mean leaves it out.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vitseg.errors import DataError
from vitseg.labels import IGNORE_INDEX


def confusion_matrix(labels: Tensor, predictions: Tensor, classes: int) -> Tensor:
    """Count pixels by true (row) and predicted (column) class; pixels labeled 255 are left out.

    Args:
        labels: true train ids, integers of any shape, 0 to K-1 or 255.
        predictions: predicted train ids of the same shape, 0 to K-1.
        classes: K.

    Returns:
        int64 (K, K) on the device of the labels.

    Raises:
        DataError: the shapes differ, or an id is out of range.
    """
    if labels.shape != predictions.shape:
        raise DataError(f"labels {tuple(labels.shape)} and predictions {tuple(predictions.shape)} differ in shape")
    valid = labels != IGNORE_INDEX
    truth = labels[valid].long()
    for name, ids in (("prediction", predictions), ("label", truth)):
        if ids.numel() and not (int(ids.min()) >= 0 and int(ids.max()) < classes):
            raise DataError(f"a {name} is outside 0-{classes - 1}: {int(ids.min())} to {int(ids.max())}")
    cells = truth * classes + predictions[valid].long()
    return torch.bincount(cells, minlength=classes**2).reshape(classes, classes)


@dataclass(frozen=True)
class Scores:
    """The scores of a confusion matrix, all 0–1; NaN where no pixel at all is labeled."""

    miou: float
    """Mean IoU of the classes that occur in the truth or in the predictions."""
    pixel_accuracy: float
    """Share of labeled pixels whose class is right."""
    per_class_iou: tuple[float | None, ...]
    """IoU = TP / (TP + FP + FN) of each class; None for a class that is nowhere."""

    @staticmethod
    def from_confusion(matrix: Tensor) -> "Scores":
        """Compute the scores of a matrix (K, K) from `confusion_matrix`, or of a sum of such."""
        counts = matrix.cpu().double()
        hits = counts.diagonal()
        unions = counts.sum(0) + counts.sum(1) - hits
        ious = tuple(hit / union if union else None for hit, union in zip(hits.tolist(), unions.tolist(), strict=True))
        found = [iou for iou in ious if iou is not None]
        return Scores(
            miou=sum(found) / len(found) if found else math.nan,
            pixel_accuracy=float(hits.sum() / counts.sum()),
            per_class_iou=ious,
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain data, NaN as None: JSON has no NaN."""
        return {
            "miou": None if math.isnan(self.miou) else self.miou,
            "pixel_accuracy": None if math.isnan(self.pixel_accuracy) else self.pixel_accuracy,
            "per_class_iou": list(self.per_class_iou),
        }


def strongest_channel_agrees(colors: Tensor, truth: Tensor) -> Tensor:
    """Say for each pixel whether its strongest color channel is the true one.

    The share of such pixels is the paper's "accuracy": what Keras calls so for images of three channels, the argmax
    over them compared. It is no pixel accuracy: two classes whose colors are strongest in the same channel count as
    one. Where channels tie, as in grays, both sides take the first of them, in the order red, green, blue.

    Args:
        colors: predicted colors (B, 3, H, W), of any scale.
        truth: true colors of the same shape.

    Returns:
        bool (B, H, W).

    Raises:
        DataError: the shapes differ.
    """
    if colors.shape != truth.shape:
        raise DataError(f"color images {tuple(colors.shape)} and {tuple(truth.shape)} differ in shape")
    return colors.argmax(dim=1) == truth.argmax(dim=1)


def mean_absolute_error(colors: Tensor, truth: Tensor, valid: Tensor) -> float:
    """Return the mean absolute difference of color images over valid pixels and channels, 0–1.

    Args:
        colors: predicted colors (B, 3, H, W), 0–1.
        truth: true colors (B, 3, H, W), 0–1.
        valid: bool (B, H, W), the pixels that count.

    Returns:
        NaN where no pixel counts.

    Raises:
        DataError: the shapes differ.
    """
    if colors.shape != truth.shape:
        raise DataError(f"color images {tuple(colors.shape)} and {tuple(truth.shape)} differ in shape")
    errors = (colors.double() - truth.double()).abs().mean(dim=1)
    return float(errors[valid].mean())
