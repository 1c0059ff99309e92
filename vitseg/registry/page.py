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
from vitseg.pictures import confusion, curves, iou_bars, panel, panel_sheet
from vitseg.recipe import Recipe
from vitseg.seams import SeamRatios, seam_text

MAX_PAGE = 5000
"""Characters that MLflow's database keeps of a description."""


def draw_run(
    bundle: Bundle, shown: Batch, matrix: torch.Tensor, history: Sequence[Mapping[str, Any]]
) -> dict[str, Image.Image]:
    """Draw a run's pictures by name: curves, confusion, iou and validation panels."""
    predictions = bundle.predict(shown.images).argmax(1).to(torch.uint8)
    rows = [
        panel(image.permute(1, 2, 0).numpy(), truth.numpy(), prediction.numpy(), bundle.classes, note=key)
        for image, truth, prediction, key in zip(shown.images, shown.labels, predictions, shown.keys, strict=True)
    ]
    return {
        "curves": curves(history),
        "confusion": confusion(matrix.numpy(), bundle.classes),
        "iou": iou_bars(Scores.from_confusion(matrix).per_class_iou, bundle.classes),
        "validation": panel_sheet(rows, classes=bundle.classes),
    }


def version_page(
    run_id: str,
    scores: Scores,
    samples: int,
    bundle: Bundle,
    manifest: Manifest,
    recipe: Recipe,
    epochs: int,
    seams: tuple[SeamRatios, SeamRatios],
) -> str:
    """Return the version's description in Markdown; `seams` are the ratios of the predictions and of the labels."""
    rows = [
        f"| {label.name} | {'–' if iou is None else f'{iou:.3f}'} |"
        for label, iou in zip(bundle.classes, scores.per_class_iou, strict=True)
    ]
    counts = ", ".join(f"{split.samples} {name}" for name, split in manifest.splits.items())
    picture = f"get-artifact?run_uuid={run_id}&path=pictures"
    page = "\n".join(
        [
            f"**mIoU {scores.miou:.3f}**, pixel accuracy {scores.pixel_accuracy:.3f} on {samples} "
            f"validation images, after {epochs} epochs.",
            "",
            f"Seam ratio, {seam_text(*seams)}.",
            "",
            f"![validation images]({picture}/validation.png)",
            "",
            "| class | IoU |",
            "|---|---|",
            *rows,
            "",
            f"![curves]({picture}/curves.png)",
            f"![confusion]({picture}/confusion.png)",
            "",
            f"Data: {counts} images of {manifest.image_size[1]}×{manifest.image_size[0]}, "
            f"fingerprint `{manifest.fingerprint[:16]}`. Weights: sha256 `{bundle.sha256[:16]}`. "
            f"Recipe: `{recipe.digest()}`, seed {recipe.run.seed}, target `{recipe.model.target}`.",
        ]
    )
    return page[:MAX_PAGE]
