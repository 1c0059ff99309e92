"""The report of a demo: collects what the other steps left into one page and its pictures."""

import io
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from flows.display.report_page import (
    ClassScore,
    KeyFigure,
    Location,
    Picture,
    PictureRow,
    Report,
    Step,
    write_report,
)
from vitseg.data.loader import Batches
from vitseg.data.manifest import Manifest, read_manifest
from vitseg.home import home
from vitseg.labels import palette
from vitseg.model.bundle import Bundle
from vitseg.pictures.charts import confusion_chart, learning_curves
from vitseg.pictures.panels import panel, panel_sheet
from vitseg.recipe import Recipe
from vitseg.registry import versions
from vitseg.seams import SeamRatios, seam_text
from vitseg.storage import open_store
from vitseg.training.job import job_folder, read_job

_SHOWN = 4
_IN_README = 3
_WIDTH = 512


@dataclass(frozen=True)
class DemoResults:
    """The results of the demo's flows, and the addresses of their data."""

    shards: str
    photographs: str
    masks: str
    preprocess: Mapping[str, Any]
    train: Mapping[str, Any]
    evaluate: Mapping[str, Any]
    segment: Mapping[str, Any]

    def mask_keys(self) -> list[str]:
        """Return the keys of all masks, of this demo and earlier ones."""
        return sorted(info.key for info in open_store(self.masks).list() if not info.key.startswith("_vitseg/"))


def write_demo_report(folder: Path, seconds: Mapping[str, float], results: DemoResults, recipe: Recipe) -> Path:
    """Write report.html, its pictures, and a copy of the masks into a folder; return the page's path.

    Args:
        folder: the demo's folder.
        seconds: how long each step took, by name.
        results: what the steps returned.
        recipe: the recipe of the training.
    """
    manifest = read_manifest(results.shards)
    bundle = versions.load(results.train["model_uri"])
    job = read_job(job_folder(results.shards, manifest.fingerprint, recipe))
    history = json.loads(open_store(job.folder).read("history.json")) if job else []
    batch = next(
        iter(Batches(results.shards, manifest, "val", batch_size=_SHOWN, shuffle=False, drop_last=False).epoch(0))
    )
    shown = dict(zip(batch.keys, batch.pictures(bundle.segment(batch.images)), strict=True))
    masks = results.mask_keys()
    model, epochs = results.train["model_uri"], results.train["epochs"]
    samples, shards = results.preprocess["samples"], results.preprocess["shards"]
    outcomes = {
        "scenes": ("street scenes with labels, photographs without", ""),
        "preprocess": (f"{samples} samples in {shards} shards", results.shards),
        "train": (f"{epochs} epochs, {model}", f"run {results.train['run_id']}"),
        "evaluate": (f"{results.evaluate['samples']} images measured", ""),
        "segment": (f"{len(masks)} masks", results.masks),
    }
    report = Report(
        title="Street scenes, segmented without a convolution",
        summary=(
            f"{samples} generated street scenes became {shards} shards in a bucket. A Vision Transformer learned from them "
            f"for {recipe.run.epochs} epochs on two processes, was registered as {model}, and segmented "
            f"{len(masks)} new photographs."
        ),
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        key_figures=key_figures(results, bundle, len(masks)),
        steps=tuple(Step(name.capitalize(), seconds[name], *outcome) for name, outcome in outcomes.items()),
        locations=_locations(folder, results),
        charts=(
            Picture("Learning curves", learning_curves(history)),
            Picture("Confusion matrix", confusion_chart(np.array(results.evaluate["confusion"]), manifest.classes)),
        ),
        classes=_class_scores(manifest, results.evaluate["per_class_iou"]),
        validation=tuple(_validation_row(key, row, palette(manifest.classes)) for key, row in shown.items()),
        segmented=(*_segmented_rows(results, masks[:_SHOWN]), *_least_confident(results)),
        environment=_environment(),
        recipe=json.dumps(recipe.to_json(), indent=1),
    )
    source, copies = open_store(results.masks), open_store(str(folder / "masks"))
    for key in masks:
        copies.write(key, source.read(key))
    page = write_report(folder, report)
    panels = [panel(*row, manifest.classes) for row in list(shown.values())[:_IN_README]]
    present = set(np.unique(batch.labels).tolist())
    overview = io.BytesIO()
    panel_sheet(panels, classes=manifest.classes, present=present).quantize(128).save(overview, "PNG", optimize=True)
    open_store(folder).write("overview.png", overview.getvalue())
    return page


def key_figures(results: DemoResults, bundle: Bundle, masks: int) -> tuple[KeyFigure, ...]:
    """Return the numbers at the top of the page; a demo that found everything done has no speed."""
    measured, segmented = results.evaluate, results.segment
    ratios: SeamRatios = measured["seam_ratio"]
    worst = max((ratio or 0 for side in ratios.values() for ratio in side.values()), default=0)
    seams = seam_text(ratios, measured["seam_ratio_truth"])
    parameters = sum(parameter.numel() for parameter in bundle.model.parameters())
    speed = segmented["images_per_second"]
    return (
        KeyFigure("mIoU", f"{measured['miou']:.3f}", note=f"{measured['samples']} validation scenes"),
        KeyFigure("Pixel accuracy", f"{100 * measured['pixel_accuracy']:.1f}", "%", "of labeled pixels"),
        KeyFigure("Seam ratio", f"{worst:.2f}" if worst else "–", note=seams),
        KeyFigure("Segmented", str(masks), f"of {segmented['listed']}", "objects in the bucket"),
        KeyFigure("Model", f"{parameters / 1e6:.2f}", "M", "parameters, 0 convolutions"),
        *([KeyFigure("Speed", f"{speed:.1f}", "images/s", f"{os.cpu_count()} CPU cores")] if speed else []),
    )


def _locations(folder: Path, results: DemoResults) -> tuple[Location, ...]:
    model = results.train["model_uri"]
    return (
        Location("Scenes", str(folder / "scenes"), "in the official Cityscapes layout"),
        Location("Shards", results.shards, "WebDataset tars and manifest.json"),
        Location("Photographs", results.photographs),
        Location("Masks", results.masks, f"copied to {folder / 'masks'}"),
        Location("A row for every object", f"{results.masks}/_vitseg/{results.segment['job']}/part-00000.parquet"),
        Location("Model", model, "in MLflow, with curves and panels"),
        Location("Start the servers again", "vitseg stack up", f"their state is in {home()}"),
        Location("Segment your own folder", f"vitseg segment PHOTOS MASKS --model {model}"),
    )


def _class_scores(manifest: Manifest, ious: Mapping[str, float | None]) -> tuple[ClassScore, ...]:
    pixels = np.array(manifest.splits["val"].pixels_per_class)
    shares = pixels / max(1, pixels.sum())
    rows = [ClassScore(label, ious[label.name], float(shares[label.train_id])) for label in manifest.classes]
    return tuple(row for row in rows if row.iou is not None)


def _validation_row(key: str, row: tuple[np.ndarray, np.ndarray, np.ndarray], colors: np.ndarray) -> PictureRow:
    photo, target, prediction = row
    masks = {"ground truth": target, "prediction": prediction}
    pictures = [Picture(name, Image.fromarray(colors[ids]), pixelated=True) for name, ids in masks.items()]
    return PictureRow(key, (Picture("photo", Image.fromarray(photo)), *pictures))


def _segmented_rows(results: DemoResults, masks: list[str]) -> list[PictureRow]:
    """Return photograph, mask and overlay of each of these masks."""
    rows = []
    for mask_key in masks:
        key = mask_key.removesuffix(".png")
        photo, mask = (
            Image.open(io.BytesIO(open_store(folder).read(name))).convert("RGB")
            for folder, name in ((results.photographs, key), (results.masks, mask_key))
        )
        size = (_WIDTH, max(1, round(photo.height * _WIDTH / photo.width)))
        photo, mask = photo.resize(size, Image.Resampling.LANCZOS), mask.resize(size, Image.Resampling.NEAREST)
        overlay = Picture("overlay", Image.blend(photo, mask, 0.5))
        rows.append(PictureRow(key, (Picture("photo", photo), Picture("mask", mask, pixelated=True), overlay)))
    return rows


def _least_confident(results: DemoResults) -> list[PictureRow]:
    """Return the contact sheet of the photographs with the lowest confidence, if there is one."""
    folder, _, name = str(results.segment["least_confident"] or "").rpartition("/")
    if not folder:
        return []
    sheet = Image.open(io.BytesIO(open_store(folder).read(name))).convert("RGB")
    return [PictureRow("Lowest confidence: look at these first", (Picture("mean confidence, photograph", sheet),))]


def _environment() -> tuple[tuple[str, str], ...]:
    packages = ("vitseg", "torch", "prefect", "mlflow", "webdataset")
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return (("machine", machine), ("GPU", gpu), *((name, version(name)) for name in packages))
