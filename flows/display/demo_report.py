"""The demo's last step: collects what the others left into one page and its pictures."""

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

from flows.display.report_page import ClassScore, Headline, Picture, Place, Report, Step, Strip, write_report
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

SHOWN = 4


@dataclass(frozen=True)
class Timed:
    """A finished step: its name and seconds."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Results:
    """What the demo's flows answered, and where their data lies."""

    shards: str
    photographs: str
    masks: str
    prepared: Mapping[str, Any]
    trained: Mapping[str, Any]
    measured: Mapping[str, Any]
    segmented: Mapping[str, Any]

    @property
    def done(self) -> int:
        """Number of masks that are there, made now or by an earlier demo."""
        return sum(1 for info in open_store(self.masks).list() if not info.key.startswith("_vitseg/"))


@dataclass(frozen=True)
class Validation:
    """Some validation scenes: keys, photos uint8 (B, H, W, 3), true and predicted train ids uint8 (B, H, W)."""

    keys: list[str]
    images: np.ndarray
    truth: np.ndarray
    predictions: np.ndarray


def write_demo_report(folder: Path, steps: list[Timed], results: Results, recipe: Recipe) -> Path:
    """Write report.html, its pictures, and a copy of the masks into a folder; return the page's path."""
    manifest = read_manifest(results.shards)
    bundle = versions.load(results.trained["model_uri"])
    job = read_job(job_folder(results.shards, manifest.fingerprint, recipe))
    history = json.loads(open_store(job.folder).read("history.json")) if job else []
    shown = _validation(results.shards, manifest, bundle)
    report = Report(
        title="Street scenes, segmented without a convolution",
        summary=_summary(results, recipe),
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        headlines=_headlines(results, bundle),
        steps=_steps(steps, results),
        places=_places(folder, results),
        charts=(
            Picture("Learning curves", learning_curves(history), "Loss and quality over epochs"),
            Picture(
                "Confusion",
                confusion_chart(np.array(results.measured["confusion"]), manifest.classes),
                "Truth by prediction",
            ),
        ),
        classes=_classes(manifest, results.measured["per_class_iou"]),
        validation=_strips(shown, manifest),
        segmented=(*_segmented(folder, results, bundle), *_least_confident(results)),
        machine=_machine(),
        recipe=json.dumps(recipe.to_json(), indent=1),
    )
    page = write_report(folder, report)
    open_store(folder).write("overview.png", _overview(shown, manifest))
    return page


def _summary(results: Results, recipe: Recipe) -> str:
    return (
        f"{results.prepared['samples']} generated street scenes became {results.prepared['shards']} shards in a bucket; "
        f"a Vision Transformer learned from them for {recipe.run.epochs} epochs on two processes, was registered as "
        f"{results.trained['model_uri']}, and gave {results.done} new photographs a mask each."
    )


def _headlines(results: Results, bundle: Bundle) -> tuple[Headline, ...]:
    speed = results.segmented["images_per_second"]
    ratios: SeamRatios = results.measured["seam_ratio"]
    worst = max((ratio or 0 for side in ratios.values() for ratio in side.values()), default=0)
    parameters = sum(parameter.numel() for parameter in bundle.model.parameters())
    headlines = (
        Headline("mIoU", f"{results.measured['miou']:.3f}", note=f"{results.measured['samples']} validation scenes"),
        Headline("Pixel accuracy", f"{100 * results.measured['pixel_accuracy']:.1f}", "%", "of labeled pixels"),
        Headline(
            "Seam ratio", f"{worst:.2f}" if worst else "–", note=seam_text(ratios, results.measured["seam_ratio_truth"])
        ),
        Headline("Segmented", str(results.done), f"of {results.segmented['listed']}", "objects in the bucket"),
        Headline("Model", f"{parameters / 1e6:.2f}", "M", "parameters, 0 convolutions"),
    )
    # A demo that found everything done has no speed to show.
    return (
        (*headlines, Headline("Speed", f"{speed:.1f}", "images/s", f"{os.cpu_count()} CPU cores"))
        if speed
        else headlines
    )


def _steps(steps: list[Timed], results: Results) -> tuple[Step, ...]:
    made = [
        ("streets with labels, photographs without", ""),
        (f"{results.prepared['samples']} samples in {results.prepared['shards']} shards", results.shards),
        (f"{results.trained['epochs']} epochs, {results.trained['model_uri']}", f"run {results.trained['run_id']}"),
        (f"{results.measured['samples']} images measured", ""),
        (f"{results.done} masks", results.masks),
    ]
    return tuple(Step(step.name, step.seconds, *of) for step, of in zip(steps, made, strict=False))


def _places(folder: Path, results: Results) -> tuple[Place, ...]:
    return (
        Place("Scenes", str(folder / "scenes"), "the official Cityscapes layout"),
        Place("Shards", results.shards, "WebDataset tars and manifest.json"),
        Place("Photographs", results.photographs),
        Place("Masks", results.masks, f"copied to {folder / 'masks'}"),
        Place("A row for every object", f"{results.masks}/_vitseg/{results.segmented['job']}/part-00000.parquet"),
        Place("Model", results.trained["model_uri"], "in MLflow, with curves and panels"),
        Place("Start the servers again", "vitseg stack up", f"state lies in {home()}"),
        Place("Segment a folder of yours", f"vitseg segment PHOTOS MASKS --model {results.trained['model_uri']}"),
    )


def _classes(manifest: Manifest, ious: Mapping[str, float | None]) -> tuple[ClassScore, ...]:
    pixels = np.array(manifest.splits["val"].pixels_per_class)
    shares = pixels / max(1, pixels.sum())
    rows = [ClassScore(label, ious[label.name], float(shares[label.train_id])) for label in manifest.classes]
    return tuple(row for row in rows if row.iou is not None)


def _validation(shards: str, manifest: Manifest, bundle: Bundle) -> Validation:
    """Predict the first validation scenes."""
    batch = next(iter(Batches(shards, manifest, "val", batch_size=SHOWN, shuffle=False, drop_last=False).epoch(0)))
    images = batch.images.permute(0, 2, 3, 1).numpy()
    predictions = bundle.segment(batch.images).numpy()
    return Validation(batch.keys, images, batch.labels.numpy(), predictions)


def _strips(shown: Validation, manifest: Manifest) -> tuple[Strip, ...]:
    colors = palette(manifest.classes)
    return tuple(
        Strip(
            key,
            (
                Picture("photo", Image.fromarray(image)),
                Picture("truth", Image.fromarray(colors[truth]), pixelated=True),
                Picture("prediction", Image.fromarray(colors[prediction]), pixelated=True),
            ),
        )
        for key, image, truth, prediction in zip(*vars(shown).values(), strict=True)
    )


def _overview(shown: Validation, manifest: Manifest) -> bytes:
    """Draw the picture that stands in the README."""
    rows = [
        panel(image, truth, prediction, manifest.classes)
        for image, truth, prediction in list(zip(shown.images, shown.truth, shown.predictions, strict=True))[:3]
    ]
    present = {int(train_id) for train_id in np.unique(shown.truth)}
    buffer = io.BytesIO()
    panel_sheet(rows, classes=manifest.classes, present=present).quantize(128).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _least_confident(results: Results) -> tuple[Strip, ...]:
    """Fetch the sheet of the photographs that the model is least sure of."""
    folder, _, name = str(results.segmented["least_confident"] or "").rpartition("/")
    if not folder:
        return ()
    sheet = Image.open(io.BytesIO(open_store(folder).read(name))).convert("RGB")
    return (Strip("least confident: look at these first", (Picture("mean confidence, photograph", sheet),)),)


def _segmented(folder: Path, results: Results, bundle: Bundle) -> tuple[Strip, ...]:
    """Copy all masks into the folder, and show the first few beside their photographs."""
    source, masks, copies = (
        open_store(results.photographs),
        open_store(results.masks),
        open_store(str(folder / "masks")),
    )
    strips: list[Strip] = []
    for info in sorted(masks.list(), key=lambda info: info.key):
        if info.key.startswith("_vitseg/"):
            continue
        mask = masks.read(info.key)
        copies.write(info.key, mask)
        if len(strips) < SHOWN:
            key = info.key.removesuffix(".png")
            opened = [
                Image.open(io.BytesIO(source.read(key))).convert("RGB"),
                Image.open(io.BytesIO(mask)).convert("RGB"),
            ]
            photo, colors = (
                image.resize(_fit(image.size), resample) for image, resample in zip(opened, (1, 0), strict=True)
            )
            overlay = Image.blend(photo, colors, 0.5)
            pictures = (Picture("photo", photo), Picture("mask", colors, pixelated=True), Picture("overlay", overlay))
            strips.append(Strip(key, pictures))
    return tuple(strips)


def _fit(size: tuple[int, int], width: int = 512) -> tuple[int, int]:
    return width, max(1, round(size[1] * width / size[0]))


def _machine() -> tuple[tuple[str, str], ...]:
    names = ("vitseg", "torch", "prefect", "mlflow", "webdataset")
    where = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return (("machine", where), ("GPU", gpu), *((name, version(name)) for name in names))
