"""All that one evaluation of a model found, as plain values."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from vitseg.class_change import match_names
from vitseg.metrics.scores import Scores, select_classes
from vitseg.metrics.seams import seam_ratios


@dataclass(frozen=True)
class Evaluation:
    """How a model does on labeled images: confusion matrix int64 (K, K), rows = ground truth; and means over valid pixels.

    Where model and data have different classes, K of them are those that both have, and the matrix is (K + 2, K + 2): its last
    row are pixels of other classes, its last column predictions of other classes (see `select_classes`).

    Color errors are those of the images that a person sees, 0–1. `strongest_channel_accuracy`, 0–1, is the paper's
    accuracy of color images. Of image pairs there is nothing else: K is 0. `seams` and `target_seams` count the
    predictions' and the labels' neighboring pixels, by the side of the patches.
    """

    confusion: torch.Tensor
    loss: float
    mean_absolute_error: float
    strongest_channel_accuracy: float
    samples: int
    classes: tuple[str, ...] = ()
    """Names of the classes that are measured; () as long as nobody has named them."""
    only_in_data: tuple[str, ...] = ()
    """Names of the labels' classes that the model does not know."""
    only_in_model: tuple[str, ...] = ()
    seams: Mapping[int, torch.Tensor] = field(default_factory=dict)
    target_seams: Mapping[int, torch.Tensor] = field(default_factory=dict)
    mean_squared_error: float = math.nan
    images: torch.Tensor | None = None
    """Confusion matrices, one an image, int64 (N, K, K), where they were asked for: of this rank's images."""
    images_per_second: float = math.nan
    """Of the quickest batch's forward pass, without reading and counting: what else a machine does slows others down."""

    @property
    def scores(self) -> Scores:
        """mIoU, per-class IoU and pixel accuracy."""
        return Scores.from_confusion(self.confusion, len(self.classes) or None)

    def over(self, names: Sequence[str]) -> "Evaluation":
        """Return the confusion matrices and scores of these of its classes alone, in this order; means stay as they are."""
        if tuple(names) == self.classes:
            return self
        places = match_names(self.classes, names)
        whole, images = (
            None if found is None else select_classes(found, places, len(names))
            for found in (self.confusion, self.images)
        )
        assert whole is not None
        return replace(self, classes=tuple(names), confusion=whole, images=images)

    @property
    def psnr(self) -> float:
        """Peak signal-to-noise ratio, decibels: that of the mean squared error of all pixels together."""
        return -10 * math.log10(self.mean_squared_error) if self.mean_squared_error else math.inf

    @property
    def headline(self) -> str:
        """The main score as text: mIoU, or PSNR where there are no classes."""
        return f"mIoU {self.scores.miou:.3f}" if len(self.confusion) else f"PSNR {self.psnr:.2f} dB"

    def to_json(self) -> dict[str, Any]:
        """Return the keys that `vitseg evaluate --json` promises, the means, seam ratios and the confusion matrix.

        What isn't a number is None: mIoU and accuracy of image pairs, PSNR of images that are equal.
        """
        scores = self.scores.to_json()
        names = self.classes or range(len(scores["per_class_iou"]))
        return {
            **scores,
            "per_class_iou": dict(zip(map(str, names), scores["per_class_iou"], strict=True)),
            "samples": self.samples,
            "loss": self.loss,
            "mean_absolute_error": self.mean_absolute_error,
            "strongest_channel_accuracy": self.strongest_channel_accuracy,
            "mean_squared_error": self.mean_squared_error if math.isfinite(self.mean_squared_error) else None,
            "psnr": self.psnr if math.isfinite(self.psnr) else None,
            "seam_ratio": seam_ratios(self.seams),
            "seam_ratio_truth": seam_ratios(self.target_seams),
            "confusion": self.confusion.tolist(),
            "only_in_data": list(self.only_in_data),
            "only_in_model": list(self.only_in_model),
        }

    def flat(self, prefix: str = "") -> dict[str, float]:
        """Return single numbers alone, by name: what a tracking server takes.

        What image pairs lack is left out, as are seam ratios that don't exist.
        """
        values = {"loss": self.loss, "mean_absolute_error": self.mean_absolute_error}
        values |= {"mean_squared_error": self.mean_squared_error, "psnr": self.psnr}
        if len(self.confusion):
            values |= {"miou": self.scores.miou, "pixel_accuracy": self.scores.pixel_accuracy}
            values["strongest_channel_accuracy"] = self.strongest_channel_accuracy
        for name, counts in (("seam_ratio", self.seams), ("seam_ratio_truth", self.target_seams)):
            for patch, ratios in seam_ratios(counts).items():
                values |= {f"{name}_{patch}_{side}": ratio for side, ratio in ratios.items() if ratio is not None}
        return {prefix + name: float(value) for name, value in values.items()}
