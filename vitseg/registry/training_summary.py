"""How a training went, as the first description of its version, and the pictures that it links to.

MLflow's page of a version shows its description and tags, but no metrics and no pictures: so the description holds them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from vitseg.data.loader import Batch
from vitseg.data.manifest import Manifest
from vitseg.metrics.result import Evaluation
from vitseg.metrics.seams import seam_ratios, seam_text
from vitseg.model.bundle import Bundle
from vitseg.pictures.charts import confusion_chart, iou_bars, learning_curves
from vitseg.pictures.panels import panel, panel_sheet
from vitseg.recipe import Recipe
from vitseg.registry.tracking import picture_link

MAX_PAGE = 5000
"""Characters of a description that MLflow's database keeps."""
PAGE_WIDTH = 800
"""Pixels of a picture that MLflow's page shows on a common screen; it cuts off wider ones."""


def draw_training(
    bundle: Bundle, shown: Batch, evaluation: Evaluation, history: Sequence[Mapping[str, Any]]
) -> dict[str, Image.Image]:
    """Return pictures of a training by name: `curves`, `validation`, and with classes `confusion` and `iou`.

    `shown` are the images of the validation panels, `history` has a row per epoch.
    """
    predictions = shown.pictures(bundle.segment(shown.images).cpu())
    width = PAGE_WIDTH // 3 - 16
    rows = [
        panel(*row, bundle.classes, note=key, width=width) for row, key in zip(predictions, shown.keys, strict=True)
    ]
    pictures = {"curves": learning_curves(history), "validation": panel_sheet(rows, classes=bundle.classes)}
    if bundle.classes:
        pictures["confusion"] = confusion_chart(evaluation.confusion.numpy(), bundle.classes)
        pictures["iou"] = iou_bars(evaluation.scores.per_class_iou, bundle.classes)
    for picture in pictures.values():
        picture.thumbnail((PAGE_WIDTH, 4 * PAGE_WIDTH), Image.Resampling.LANCZOS)
    return pictures


def training_summary(
    run_id: str, evaluation: Evaluation, bundle: Bundle, manifest: Manifest, recipe: Recipe, epochs: int, digest: str
) -> str:
    """Return the summary of a training and its validation in Markdown; the run holds its pictures.

    `digest` is that of the recipe as it was asked for.
    """
    scores = evaluation.scores
    rows = [
        f"| {label.name} | {'–' if iou is None else f'{iou:.3f}'} |"
        for label, iou in zip(bundle.classes, scores.per_class_iou, strict=True)
    ]
    seams = seam_text(seam_ratios(evaluation.seams), seam_ratios(evaluation.target_seams))
    error = f"mean absolute error {evaluation.mean_absolute_error:.4f}"
    quality = f"**{evaluation.headline}**, " + (f"pixel accuracy {scores.pixel_accuracy:.3f}" if rows else error)
    counts = ", ".join(f"{split.samples} {name}" for name, split in manifest.splits.items())
    picture = picture_link(run_id, "pictures")
    lines = [
        f"{quality} on {evaluation.samples} validation images, after {epochs} {'epoch' if epochs == 1 else 'epochs'}.",
        "",
        *([f"Seam ratio, {seams}.", ""] if rows else []),
        f"![validation images]({picture}/validation.png)",
        "",
        *(["| class | IoU |", "|---|---|", *rows, ""] if rows else []),
        f"![learning curves]({picture}/curves.png)",
        *([f"![confusion matrix]({picture}/confusion.png)"] if rows else []),
        "",
        f"Data: {counts} images of {manifest.image_size[1]}×{manifest.image_size[0]}, "
        f"fingerprint `{manifest.fingerprint[:16]}`. Model: sha256 `{bundle.sha256[:16]}`. "
        f"Recipe: `{digest}`, seed {recipe.run.seed}, target `{recipe.model.target}`.",
    ]
    return "\n".join(lines)[:MAX_PAGE]
