"""The last step of the demo: collects what the other steps left for its report."""

import io
import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flows.display.report_page import ClassScore, Picture, PictureRow, Report, write_report
from vitseg.data.loader import Batches
from vitseg.data.manifest import Manifest, read_manifest
from vitseg.home import home
from vitseg.labels import palette
from vitseg.pictures.charts import confusion_chart, learning_curves
from vitseg.pictures.panels import panel, panel_sheet
from vitseg.recipe import Recipe
from vitseg.registry import versions
from vitseg.registry.provenance import environment_fields
from vitseg.storage import open_store
from vitseg.training.job import HISTORY, job_folder, read_job

_SHOWN = 4
_IN_README = 3
_WIDTH = 512

Row = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Photo uint8 (H, W, 3), ground truth and prediction uint8 (H, W)."""


def write_demo_report(
    folder: Path,
    addresses: Mapping[str, str],
    seconds: Mapping[str, float],
    results: Mapping[str, Mapping[str, Any]],
    recipe: Recipe,
) -> Path:
    """Write report.html, its pictures, and a copy of the masks into the demo's folder; return the page's path.

    `addresses` are those of `shards`, `photographs` and `masks`; for `seconds` and `results` see `Report`.
    """
    shards = addresses["shards"]
    manifest = read_manifest(shards)
    bundle = versions.load(results["train"]["model_uri"])
    job = read_job(job_folder(shards, manifest.fingerprint, recipe))
    history = json.loads(open_store(job.folder).read(HISTORY)) if job else []
    batch = next(iter(Batches(shards, manifest, "val", batch_size=_SHOWN, shuffle=False, drop_last=False).epoch(0)))
    shown = dict(zip(batch.keys, batch.pictures(bundle.segment(batch.images)), strict=True))
    masks = _copy_masks(addresses["masks"], folder / "masks")
    report = Report(
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        addresses={**addresses, "scenes": str(folder / "scenes"), "copies": str(folder / "masks"), "home": str(home())},
        seconds=seconds,
        results=results,
        masks=len(masks),
        parameters=sum(parameter.numel() for parameter in bundle.model.parameters()),
        charts=(
            Picture("Learning curves", learning_curves(history)),
            Picture("Confusion matrix", confusion_chart(np.array(results["evaluate"]["confusion"]), manifest.classes)),
        ),
        classes=_class_scores(manifest, results["evaluate"]["per_class_iou"]),
        validation=tuple(_validation_row(key, row, palette(manifest.classes)) for key, row in shown.items()),
        segmented=(
            *(_segmented_row(addresses, key) for key in masks[:_SHOWN]),
            *_least_confident(results["segment"]["least_confident"]),
        ),
        environment=_environment(),
        recipe=json.dumps(recipe.to_json(), indent=1),
    )
    page = write_report(folder, report)
    panels = [panel(*row, manifest.classes) for row in list(shown.values())[:_IN_README]]
    present = set(np.unique(batch.labels).tolist())
    overview = io.BytesIO()
    panel_sheet(panels, classes=manifest.classes, present=present).quantize(128).save(overview, "PNG", optimize=True)
    open_store(folder).write("overview.png", overview.getvalue())
    return page


def _copy_masks(address: str, folder: Path) -> list[str]:
    """Copy all masks into a folder, those of an earlier demo too, and return their keys."""
    source, copies = open_store(address), open_store(folder)
    keys = sorted(info.key for info in source.list() if not info.key.startswith("_vitseg/"))
    for key in keys:
        copies.write(key, source.read(key))
    return keys


def _class_scores(manifest: Manifest, ious: Mapping[str, float | None]) -> tuple[ClassScore, ...]:
    pixels = np.array(manifest.splits["val"].pixels_per_class)
    shares = (pixels / max(1, pixels.sum())).tolist()
    pairs = [(label, ious[label.name]) for label in manifest.classes]
    return tuple(ClassScore(label, iou, shares[label.train_id]) for label, iou in pairs if iou is not None)


def _validation_row(key: str, row: Row, colors: np.ndarray) -> PictureRow:
    photo, target, prediction = row
    masks = {"ground truth": target, "prediction": prediction}
    pictures = [Picture(name, Image.fromarray(colors[ids]), pixelated=True) for name, ids in masks.items()]
    return PictureRow(key, (Picture("photo", Image.fromarray(photo)), *pictures))


def _segmented_row(addresses: Mapping[str, str], mask_key: str) -> PictureRow:
    """Return photograph, mask and overlay of a mask."""
    key = mask_key.removesuffix(".png")
    photo, mask = (_open(addresses["photographs"], key), _open(addresses["masks"], mask_key))
    size = (_WIDTH, max(1, round(photo.height * _WIDTH / photo.width)))
    photo, mask = photo.resize(size, Image.Resampling.LANCZOS), mask.resize(size, Image.Resampling.NEAREST)
    overlay = Picture("overlay", Image.blend(photo, mask, 0.5))
    return PictureRow(key, (Picture("photo", photo), Picture("mask", mask, pixelated=True), overlay))


def _least_confident(address: str | None) -> list[PictureRow]:
    """Return the contact sheet of the photographs with the lowest confidence, if there is one."""
    if not address:
        return []
    folder, _, name = address.rpartition("/")
    sheet = Picture("mean confidence, photograph", _open(folder, name))
    return [PictureRow("Lowest confidence: look at these first", (sheet,))]


def _open(folder: str, key: str) -> Image.Image:
    return Image.open(io.BytesIO(open_store(folder).read(key))).convert("RGB")


def _environment() -> dict[str, str]:
    known = environment_fields()
    return {"machine": f"{platform.system()} {platform.machine()}", "device": known["device"], **known["versions"]}
