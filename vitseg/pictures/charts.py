"""Charts: learning curves, the confusion matrix, IoU by class.

Every function returns a new RGB `PIL.Image`. Charts use matplotlib's Agg canvas without pyplot
(https://matplotlib.org/stable/gallery/user_interfaces/canvasagg.html), so they need no window and leave no global
figure behind. Line colors are the color-blind-safe ones of Okabe and Ito (https://jfly.uni-koeln.de/color/).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from vitseg.labels import Label, palette
from vitseg.pictures.style import INK, LINE, MUTED, PAPER, TEXT, fit_text, load_font

_SPLITS = {"train": "#0072B2", "val": "#D55E00"}
_SPLIT_NAMES = {"train": "train", "val": "validation"}
_SCORES = {"miou": ("mIoU", "-"), "pixel_accuracy": ("pixel accuracy", "--")}
_DPI = 160


def learning_curves(history: Sequence[Mapping[str, Any]]) -> Image.Image:
    """Draw loss (left), and mIoU and pixel accuracy (right; PSNR where there is neither), over epochs.

    Rows have `epoch` and metrics such as `train/loss` and `val/miou`; what is missing, None or not finite is left out.
    """
    figure, canvas = _figure(10.5, 4.4)
    left, right = figure.subplots(1, 2)
    for split, color in _SPLITS.items():
        _line(left, _points(history, f"{split}/loss"), _SPLIT_NAMES[split], color)
        for metric, (name, style) in _SCORES.items():
            points = _points(history, f"{split}/{metric}")
            _line(right, points, f"{name}, {_SPLIT_NAMES[split]}", color, style)
    is_share = bool(right.lines)
    if not is_share:  # image pairs
        _line(right, _points(history, "val/psnr"), "PSNR in decibels, validation", _SPLITS["val"])
    for axes, title in ((left, "Loss"), (right, "Quality")):
        _tidy(axes, title, "y")
        axes.set_xlabel("epoch", fontsize=9, color=MUTED)
        if not axes.lines:
            axes.set(xticks=[], yticks=[])
            axes.text(0.5, 0.5, "nothing measured", ha="center", color=MUTED, transform=axes.transAxes)
            continue
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.set_xlim(axes.dataLim.x0 - 0.5, axes.dataLim.x1 + 0.5)
        axes.set_ylim(0, 1.02 if axes is right and is_share else max(1.05 * axes.dataLim.y1, 1e-6))
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14)}  # below: never on top of a line
        axes.legend(frameon=False, fontsize=9, labelcolor=INK, handlelength=2.4, ncols=2, **place)
    return _image(canvas)


def confusion_chart(matrix: np.ndarray, classes: tuple[Label, ...]) -> Image.Image:
    """Draw a confusion matrix (K, K), rows = ground truth, each row as percentages of its pixels.

    Classes without any pixel are left out. With up to 20 classes, cells carry their numbers.
    """
    present = np.flatnonzero(matrix.sum(0) + matrix.sum(1))
    counts = matrix[np.ix_(present, present)].astype(float)
    totals = counts.sum(1, keepdims=True)
    blank = np.full_like(counts, np.nan)  # rows of classes that are predicted but have no pixels
    shares = np.divide(counts, totals, out=blank, where=totals > 0)
    names = {label.train_id: label.name for label in classes}
    side = min(14.0, 2.2 + 0.31 * max(6, len(present)))
    figure, canvas = _figure(side, side)
    axes = figure.subplots()
    _tidy(axes, "Pixels of each class, by predicted class (%)", "x")
    axes.grid(visible=False)
    edges = np.arange(0.5, len(present) - 1)
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.grid(which="minor", color=PAPER, linewidth=1.5)
    axes.tick_params(which="minor", length=0)
    axes.set_axisbelow(False)
    if len(present):
        axes.imshow(shares, cmap=matplotlib.colormaps["Blues"], vmin=0, vmax=1)
    labels = [fit_text(names.get(int(train_id), str(train_id)), load_font(TEXT), 150) for train_id in present]
    size = min(9.0, 400 / max(1, len(present)))
    axes.set_xticks(range(len(present)), labels, rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(range(len(present)), labels, fontsize=size, parse_math=False)
    axes.set_xlabel("prediction", fontsize=9, color=MUTED)
    axes.set_ylabel("ground truth", fontsize=9, color=MUTED)
    if len(present) <= 20:
        for row, column in np.argwhere(shares >= 0.005):
            value = shares[row, column]
            color = "white" if value > 0.55 else INK
            axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=7.5, color=color)
    return _image(canvas)


def iou_bars(per_class_iou: Sequence[float | None], classes: tuple[Label, ...]) -> Image.Image:
    """Draw the IoU (0–1) of each train id as a bar in its color, best on top; None: the class has no pixels."""
    known = {i: float(iou) for i, iou in enumerate(per_class_iou) if iou is not None and math.isfinite(iou)}
    labels = sorted(classes, key=lambda label: known.get(label.train_id, -1.0), reverse=True)
    colors = palette(classes) / 255
    figure, canvas = _figure(7.5, 1.1 + 0.3 * max(3, len(labels)))
    axes = figure.subplots()
    mean = f", mean {sum(known.values()) / len(known):.3f}" if known else ""
    _tidy(axes, f"Intersection over union{mean}", "x")
    for row, label in enumerate(labels):
        iou = known.get(label.train_id)
        axes.barh(row, iou or 0, height=0.68, color=colors[label.train_id], edgecolor=MUTED, linewidth=0.5)
        text, color = ("no pixels", MUTED) if iou is None else (f"{iou:.3f}", INK)
        axes.text((iou or 0) + 0.012, row, text, va="center", fontsize=8.5, color=color)
    names = [fit_text(label.name, load_font(TEXT), 220) for label in labels]
    axes.set_yticks(range(len(labels)), names, color=INK, parse_math=False)
    axes.set(xlim=(0, 1.1), ylim=(len(labels) - 0.4, -0.6), xticks=[0, 0.25, 0.5, 0.75, 1])
    return _image(canvas)


def _figure(width: float, height: float) -> tuple[Figure, FigureCanvasAgg]:
    """Return an empty figure (inches) that pyplot does not keep."""
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor=PAPER, layout="constrained")
    return figure, FigureCanvasAgg(figure)


def _image(canvas: FigureCanvasAgg) -> Image.Image:
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _tidy(axes: Axes, title: str, grid: str) -> None:
    """Remove spines and tick marks; keep a faint grid along one axis."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=10)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=9, labelcolor=MUTED)
    axes.grid(visible=True, axis=grid, color=LINE, linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def _points(history: Sequence[Mapping[str, Any]], metric: str) -> list[tuple[float, float]]:
    """Return (epoch, value) of the rows that have a finite value; the line bridges the others."""
    pairs = [(row.get("epoch"), row.get(metric)) for row in history]
    points = [(float(epoch), float(value)) for epoch, value in pairs if epoch is not None and value is not None]
    return sorted(point for point in points if all(map(math.isfinite, point)))


def _line(axes: Axes, points: list[tuple[float, float]], label: str, color: str, style: str = "-") -> None:
    if points:
        marker = "o" if len(points) <= 30 else ""
        axes.plot(*zip(*points, strict=True), style, marker=marker, ms=4, lw=1.8, color=color, label=label)
