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
from vitseg.registry.comparison import Difference, Result
from vitseg.registry.gate import Ruling, passed
from vitseg.registry.versions import Version
from vitseg.seams import SeamRatios, seam_text

_TITLES = {"miou": "mIoU", "pixel_accuracy": "pixel accuracy"}
MAX_PAGE = 5000
"""Characters that MLflow's database keeps of a description."""
_TRAINED = "\n\n# As trained\n\n"  # what comes before it is the last review's
PAGE_WIDTH = 800
"""Pixels that MLflow's page shows of a picture on a common screen; what is wider is cut off, not shrunk."""


def draw_run(
    bundle: Bundle, shown: Batch, matrix: torch.Tensor, history: Sequence[Mapping[str, Any]]
) -> dict[str, Image.Image]:
    """Draw a run's pictures by name: curves, validation panels, and where there are classes confusion and iou."""
    found = shown.pictures(bundle.answer(shown.images).cpu())
    rows = [
        panel(*pictures, bundle.classes, note=key, width=PAGE_WIDTH // 3 - 16)
        for pictures, key in zip(found, shown.keys, strict=True)
    ]
    pictures = {"curves": curves(history), "validation": panel_sheet(rows, classes=bundle.classes)}
    if bundle.classes:
        pictures["confusion"] = confusion(matrix.numpy(), bundle.classes)
        pictures["iou"] = iou_bars(Scores.from_confusion(matrix).per_class_iou, bundle.classes)
    for picture in pictures.values():
        picture.thumbnail((PAGE_WIDTH, 4 * PAGE_WIDTH), Image.Resampling.LANCZOS)
    return pictures


def version_page(
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
            f"{quality} on {samples} validation images, after {epochs} epochs.",
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


def review_page(
    candidate: Version,
    champion: Version | None,
    rulings: Sequence[Ruling],
    rows: Mapping[str, Difference],
    found: Result,
    beside: Result | None,
    where: str,
    holdout: str,
    picture: str,
) -> str:
    """Return the page that a reviewer decides by, in Markdown: verdict, comparison, pictures, commands, then the version's own.

    Args:
        candidate: the version; what an earlier review put before its page is replaced.
        champion: what it was compared with.
        rulings: the gate's.
        rows: differences of champion (A) and candidate (B), by metric.
        found: how the candidate did.
        beside: how the champion did.
        where: split and address of the images.
        holdout: their digest.
        picture: address of the examples; empty: there are none.
    """
    verdict = "passed" if passed(tuple(rulings)) else "FAILED"
    against = (
        f"against the champion, version {champion.version}" if champion else "there is no champion yet: floors alone"
    )
    decide = f"--name {candidate.name} --reviewer YOU --reason WHY"
    lines = [
        f"# Gate {verdict}",
        f"Measured on {found.samples} images, {where} (holdout `{holdout}`); {against}.",
        "",
        *_table(["rule", "wanted", "found", ""]),
        *(
            _row([ruling.rule, ruling.wanted, ruling.found, "passed" if ruling.passed else "**failed**"])
            for ruling in rulings
        ),
        "",
        *_comparison(rows, found, beside),
        *([f"![images worth a look]({picture})", ""] if picture else []),
        "Decide:",
        "",
        f"    vitseg registry promote {candidate.version} {decide}",
        f"    vitseg registry reject {candidate.version} {decide}",
        *([f"    vitseg registry rollback {decide}"] if champion else []),
    ]
    trained = candidate.description.rpartition(_TRAINED)[2]
    return ("\n".join(lines) + _TRAINED + trained)[:MAX_PAGE]


def _comparison(rows: Mapping[str, Difference], found: Result, beside: Result | None) -> list[str]:
    if not rows or beside is None:
        return []
    lines = [
        "Beside the champion, by IoU of each class:",
        "",
        *_table(["", "champion", "this version", "Δ", "95 % interval"]),
    ]
    for name, row in rows.items():
        if row.delta is not None:
            mark = "**" if row.sure else ""
            delta = f"{mark}{row.delta:+.3f}{mark}"
            title = _TITLES.get(name, name.removeprefix("iou/"))
            lines.append(_row([title, f"{row.a:.3f}", f"{row.b:.3f}", delta, f"{row.low:+.3f} to {row.high:+.3f}"]))
    for title, before, after in (
        ("seam ratio, worst", beside.worst_seam, found.worst_seam),
        ("images/s", beside.images_per_second, found.images_per_second),
    ):
        lines.append(_row([title, f"{before:.2f}", f"{after:.2f}", f"{after - before:+.2f}", ""]))
    return [*lines, "", "Bold: more than chance explains.", ""]


def _table(titles: Sequence[str]) -> list[str]:
    return [_row(titles), "|---" * len(titles) + "|"]


def _row(cells: Sequence[str]) -> str:
    """Return a row of a table; MLflow leaves no room between columns."""
    return "| " + " | ".join(cell.replace("|", "/").replace("\n", " ") + "&ensp;" for cell in cells) + " |"
