"""What a person sees of a version: pictures in its run, and the description that is its page in the registry.

MLflow's page of a version shows the description and tags, no metrics and no pictures: so the description holds them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from vitseg.data.loader import Batch
from vitseg.data.manifest import Manifest
from vitseg.metrics import Scores
from vitseg.model.bundle import Bundle
from vitseg.pictures.charts import confusion_chart, iou_bars, learning_curves
from vitseg.pictures.panels import panel, panel_sheet
from vitseg.recipe import Recipe
from vitseg.seams import SeamRatios, seam_text

MAX_PAGE = 5000
"""Characters that MLflow's database keeps of a description."""
PAGE_WIDTH = 800
"""Pixels that MLflow's page shows of a picture on a common screen; what is wider is cut off, not shrunk."""


def draw_training(
    bundle: Bundle, shown: Batch, matrix: torch.Tensor, history: Sequence[Mapping[str, Any]]
) -> dict[str, Image.Image]:
    """Draw a run's pictures by name: curves, validation panels, and where there are classes confusion and iou."""
    found = shown.pictures(bundle.segment(shown.images).cpu())
    rows = [
        panel(*pictures, bundle.classes, note=key, width=PAGE_WIDTH // 3 - 16)
        for pictures, key in zip(found, shown.keys, strict=True)
    ]
    pictures = {"curves": learning_curves(history), "validation": panel_sheet(rows, classes=bundle.classes)}
    if bundle.classes:
        pictures["confusion"] = confusion_chart(matrix.numpy(), bundle.classes)
        pictures["iou"] = iou_bars(Scores.from_confusion(matrix).per_class_iou, bundle.classes)
    for picture in pictures.values():
        picture.thumbnail((PAGE_WIDTH, 4 * PAGE_WIDTH), Image.Resampling.LANCZOS)
    return pictures


def training_summary(
    run_id: str,
    scores: Scores,
    samples: int,
    bundle: Bundle,
    manifest: Manifest,
    recipe: Recipe,
    epochs: int,
    seams: tuple[SeamRatios, SeamRatios],
    errors: Mapping[str, float] | None = None,
) -> str:
    """Return the version's description in Markdown.

    `seams` are the ratios of the predictions and of the labels; `errors` of a model without classes have `psnr` and
    `mean_absolute_error`.
    """
    rows = [
        f"| {label.name} | {'–' if iou is None else f'{iou:.3f}'} |"
        for label, iou in zip(bundle.classes, scores.per_class_iou, strict=True)
    ]
    if bundle.classes:
        quality = f"**mIoU {scores.miou:.3f}**, pixel accuracy {scores.pixel_accuracy:.3f}"
    else:
        assert errors is not None
        quality = f"**PSNR {errors['psnr']:.2f} dB**, mean absolute error {errors['mean_absolute_error']:.4f}"
    counts = ", ".join(f"{split.samples} {name}" for name, split in manifest.splits.items())
    picture = f"get-artifact?run_uuid={run_id}&path=pictures"
    page = "\n".join(
        [
            f"{quality} on {samples} validation images, after {epochs} {'epoch' if epochs == 1 else 'epochs'}.",
            "",
            *([f"Seam ratio, {seam_text(*seams)}.", ""] if rows else []),
            f"![validation images]({picture}/validation.png)",
            "",
            *(["| class | IoU |", "|---|---|", *rows, ""] if rows else []),
            f"![curves]({picture}/curves.png)",
            *([f"![confusion]({picture}/confusion.png)"] if rows else []),
            "",
            f"Data: {counts} images of {manifest.image_size[1]}×{manifest.image_size[0]}, "
            f"fingerprint `{manifest.fingerprint[:16]}`. Weights: sha256 `{bundle.sha256[:16]}`. "
            f"Recipe: `{recipe.digest()}`, seed {recipe.run.seed}, target `{recipe.model.target}`.",
        ]
    )
    return page[:MAX_PAGE]
