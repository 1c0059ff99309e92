"""The confusion matrix of masks, and the scores of the Cityscapes benchmark computed from it.

Matrices of batches and ranks are added, so scores over a split are exact, whatever the batch size and number of ranks.
Definitions: https://www.cityscapes-dataset.com/benchmarks/ (pixel-level semantic labeling), as the official
`cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling` computes them; a test compares the two:

- Pixels labeled 255 are ignored, whatever is predicted there.
- A class that is predicted but not in the ground truth has IoU 0, which enters the mean.
- A class that is in neither has no IoU and does not enter the mean.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vitseg.errors import DataError
from vitseg.labels import IGNORE_INDEX


def confusion_matrix(labels: Tensor, predictions: Tensor, classes: int) -> Tensor:
    """Count pixels by true (row) and predicted (column) class: int64 (K, K) on the device of the labels.

    Both are train ids of any one shape, 0 to K-1; pixels labeled 255 are ignored.

    Raises:
        DataError: the shapes differ, or an id is out of range.
    """
    return confusion_of(count_pairs(labels, predictions, classes))


def count_pairs(labels: Tensor, predictions: Tensor, classes: int) -> Tensor:
    """Count pixels as `confusion_matrix`, but without waiting for a GPU: int64 (K + 2, K + 1), to be added up.

    Row K counts labels that are out of range, row K + 1 ignored ones, column K predictions that are out of range.

    Raises:
        DataError: the shapes differ.
    """
    if labels.shape != predictions.shape:
        raise DataError(f"labels {tuple(labels.shape)} and predictions {tuple(predictions.shape)} differ in shape")
    ids = (labels.long(), predictions.long())
    rows, columns = (each.where((each >= 0) & (each < classes), classes) for each in ids)
    cells = (rows.where(labels != IGNORE_INDEX, classes + 1) * (classes + 1) + columns).flatten()
    # Not torch.bincount, which waits for a GPU to tell the largest id.
    counts = cells.new_zeros((classes + 2) * (classes + 1)).scatter_add_(0, cells, cells.new_ones(1).expand_as(cells))
    return counts.view(classes + 2, classes + 1)


def confusion_of(counts: Tensor) -> Tensor:
    """Return the confusion matrix int64 (K, K) of a sum of `count_pairs`.

    Raises:
        DataError: an id is out of range.
    """
    classes = counts.shape[1] - 1
    for name, stray in (("prediction", counts[:, classes]), ("label", counts[classes])):
        if pixels := int(stray.sum()):
            raise DataError(f"a {name} is outside 0-{classes - 1}, at {pixels} pixels")
    return counts[:classes, :classes]


def select_classes(matrices: Tensor, places: Sequence[int | None], count: int) -> Tensor:
    """Return confusion matrices (…, C, C) as (…, count + 2, count + 2): class k of them is class `places[k]` by now.

    All others, whose place is None or missing, are merged: their pixels as row `count`, as predictions column `count` + 1. So
    none of them is ever right.
    """
    padded = [*places, *[None] * (matrices.shape[-1] - len(places))]
    rows, columns = (
        torch.tensor([other if place is None else place for place in padded], device=matrices.device)
        for other in (count, count + 1)
    )
    shape = matrices.shape[:-2]
    merged = matrices.new_zeros(*shape, count + 2, matrices.shape[-1]).index_add_(-2, rows, matrices)
    return matrices.new_zeros(*shape, count + 2, count + 2).index_add_(-1, columns, merged)


@dataclass(frozen=True)
class Scores:
    """The scores of a confusion matrix, all 0–1; NaN if no pixel is labeled."""

    miou: float
    """Mean IoU of the classes that occur in the ground truth or the predictions."""
    pixel_accuracy: float
    """Share of labeled pixels whose class is predicted correctly."""
    per_class_iou: tuple[float | None, ...]
    """IoU = TP / (TP + FP + FN) of each class; None for a class that occurs nowhere."""

    @staticmethod
    def from_confusion(matrix: Tensor, classes: int | None = None) -> "Scores":
        """Compute the scores of the first `classes` of a confusion matrix, or of a sum of several; None: of all.

        What is predicted for other classes' pixels, or is another class, counts as wrong; pixel accuracy leaves out other
        classes' pixels.
        """
        counts = matrix.cpu().double()
        hits, rows, columns = (part[:classes] for part in (counts.diagonal(), counts.sum(1), counts.sum(0)))
        unions = rows + columns - hits
        ious = tuple(hit / union if union else None for hit, union in zip(hits.tolist(), unions.tolist(), strict=True))
        found = [iou for iou in ious if iou is not None]
        return Scores(
            miou=sum(found) / len(found) if found else math.nan,
            pixel_accuracy=float(hits.sum() / rows.sum()),
            per_class_iou=ious,
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain data, NaN as None: JSON has no NaN."""
        return {
            "miou": None if math.isnan(self.miou) else self.miou,
            "pixel_accuracy": None if math.isnan(self.pixel_accuracy) else self.pixel_accuracy,
            "per_class_iou": list(self.per_class_iou),
        }


def strongest_channel_agrees(colors: Tensor, targets: Tensor) -> Tensor:
    """Return bool (B, H, W): whether the predicted and the target color (B, 3, H, W) have the same strongest channel.

    The share of such pixels is the "accuracy" of the paper: what Keras computes under this name for images of three
    channels, a comparison of their argmax. It is not pixel accuracy: classes whose colors have the same strongest
    channel count as one. Of equal channels, as in grays, the first counts, in the order red, green, blue.

    Raises:
        DataError: the shapes differ.
    """
    if colors.shape != targets.shape:
        raise DataError(f"color images {tuple(colors.shape)} and {tuple(targets.shape)} differ in shape")
    return colors.argmax(dim=1) == targets.argmax(dim=1)
