"""The mIoU of a perfect model: what bilinear resizing and JPEG did to the labels of a source of pairs.

Class ids are drawn in their colors, resized and saved as the published labels were (JPEG with the quantization tables
of each file), and decoded to the nearest color. The mIoU between the two is a ceiling: a model that knew the ground
truth would reach it. BENCH_SOURCE names the source.
"""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.bench.measure import Figure, log
from vitseg.data.color_labels import nearest_colors
from vitseg.labels import CITYSCAPES, IGNORE_INDEX, palette, train_classes
from vitseg.metrics.scores import Scores, confusion_matrix

_GOOD = 0.5  # well-trained convolutional networks reach it at this size: below it, labels would be the limit
_ENLARGED = 4  # the published photographs are 1024 pixels high, the pairs 256


def figures(_folder: Path) -> Iterator[Figure]:
    source = os.environ.get("BENCH_SOURCE", "")
    files = sorted((Path(source) / "val").glob("*.jpg")) if source else []
    if not files:
        log("ceiling: BENCH_SOURCE must name a folder of pairs (val/1.jpg: photo and label side by side)")
        return
    for name, factor in (("JPEG", 1), ("bilinear resizing and JPEG", _ENLARGED)):
        classes = len(train_classes())
        total = torch.zeros(classes, classes, dtype=torch.int64)
        for file in files:
            total += _round_trip(file, factor)
        scores = Scores.from_confusion(total)
        log(f"{name}: a perfect model's mIoU {scores.miou:.4f}, pixel accuracy {scores.pixel_accuracy:.4f}")
        figure = f"ceiling: mIoU that {name} of the labels leaves"
        yield Figure(figure, round(scores.miou, 4), goal=_GOOD, better="higher", rounds=1)


def _round_trip(file: Path, factor: int) -> torch.Tensor:
    """Return the confusion matrix of one file: decoded classes (rows) over drawn ones (columns)."""
    with Image.open(file) as pair:
        tables = pair.quantization
        width, height = pair.size
        label = np.asarray(pair.convert("RGB").crop((width // 2, 0, width, height)))
    colors = palette(train_classes())
    drawn = nearest_colors(label, CITYSCAPES)
    image = Image.fromarray(colors[drawn])
    if factor > 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
        image = image.resize((label.shape[1], label.shape[0]), Image.Resampling.BILINEAR)
    saved = io.BytesIO()
    image.save(saved, "JPEG", qtables=tables, subsampling="4:2:0")
    read = nearest_colors(np.asarray(Image.open(saved).convert("RGB")), CITYSCAPES)
    read = np.where(drawn == IGNORE_INDEX, IGNORE_INDEX, read)  # there a model may predict anything
    sure = np.where(drawn == IGNORE_INDEX, 0, drawn)
    return confusion_matrix(torch.from_numpy(read), torch.from_numpy(sure), len(train_classes()))
