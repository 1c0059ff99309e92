"""The images that a reviewer should look at: the worst ones of a version, and those that lost most against the champion."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from vitseg.class_change import match_names
from vitseg.data.loader import Batches
from vitseg.data.manifest import read_manifest
from vitseg.labels import IGNORE_INDEX, Label, palette
from vitseg.masks import colorize
from vitseg.model.bundle import Bundle
from vitseg.pictures.panels import contact_sheet
from vitseg.registry.tracking import log_picture, picture_link

_WIDTH = 184  # pixels of a picture: four side by side fit MLflow's page
_NAME = "review/examples.png"


def select_examples(ours: Tensor, champions: Tensor | None, count: int = 3) -> list[int]:
    """Return the indices of `count` images with the lowest pixel accuracy, then of as many that lost most.

    `ours` and `champions` are confusion matrices of the same images, int64 (N, K, K); None: there is no champion.
    """
    accuracy = _pixel_accuracy(ours)
    selected = accuracy.argsort()[:count].tolist()
    if champions is not None:
        change = accuracy - _pixel_accuracy(champions)
        selected += [index for index in change.argsort()[:count].tolist() if change[index] < 0]
    return list(dict.fromkeys(selected))


def log_examples(run_id: str, shards: str, split: str, selected: Sequence[int], models: Mapping[str, Bundle]) -> str:
    """Store a picture of the selected images in a run, and return its address on MLflow's page."""
    log_picture(run_id, draw_examples(shards, split, selected, models), _NAME)
    return picture_link(run_id, _NAME)


def draw_examples(shards: str, split: str, selected: Sequence[int], models: Mapping[str, Bundle]) -> Image.Image:
    """Draw a row for each selected image: photo, ground truth, and each model's prediction with its pixel accuracy.

    Classes are matched by name and have the colors of the data set; each model sees the photo at its own size.
    """
    manifest = read_manifest(shards)
    batches = Batches(shards, manifest, split, batch_size=1, shuffle=False, drop_last=False)
    in_data = {name: ids_in_data(bundle, manifest.classes) for name, bundle in models.items()}
    rows: dict[int, list[tuple[str, Image.Image]]] = {}
    for index, batch in enumerate(batches.epoch(0)):
        if index in selected:
            labels = batch.labels[0].numpy()
            photo = Image.fromarray(batch.images[0].permute(1, 2, 0).numpy())
            truth = Image.fromarray(colorize(labels, palette(manifest.classes)))
            rows[index] = [(batch.keys[0], photo), ("ground truth", truth)]
            for name, bundle in models.items():
                ids = bundle.segment(batch.images)[0].cpu().numpy()
                numbers, colors = in_data[name]
                accuracy = (numbers[ids] == labels).sum() / max(1, (labels != IGNORE_INDEX).sum())
                rows[index].append((f"{name}: {accuracy:.0%}", Image.fromarray(colorize(ids, colors))))
            if len(rows) == len(selected):
                break
    cells = [cell for index in selected for cell in rows[index]]
    return contact_sheet(cells, columns=2 + len(models), width=_WIDTH)


def ids_in_data(bundle: Bundle, classes: tuple[Label, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return a model's train ids in a data set, int64 (256,), -1 for classes that it lacks, and their colors there."""
    numbers, colors = np.full(256, -1), bundle.palette.copy()
    for own, place in enumerate(match_names(*([label.name for label in side] for side in (bundle.classes, classes)))):
        if place is not None:
            numbers[own], colors[own] = place, classes[place].color
    return numbers, colors


def _pixel_accuracy(matrices: Tensor) -> Tensor:
    counts = matrices.double()
    return counts.diagonal(dim1=1, dim2=2).sum(1) / counts.sum((1, 2)).clamp(min=1)
