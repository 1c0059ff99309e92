"""Pictures for people: photo | truth | prediction panels, legends, learning curves, confusion and IoU.

Every function returns a new RGB `PIL.Image` and keeps no state: charts use matplotlib's Agg canvas without
pyplot (https://matplotlib.org/stable/gallery/user_interfaces/canvasagg.html), so that no
window or global figure is needed. Line colors are the color-blind-safe ones of Okabe and Ito
(https://jfly.uni-koeln.de/color/).
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

from vitseg.labels import IGNORE_INDEX, Label, palette

_PAPER, _INK, _MUTED, _LINE = "#ffffff", "#1f2328", "#6b7280", "#e5e7eb"
_HATCH = (96, 96, 96)
_GAP, _TEXT = 12, 15
_HEAD = 5  # characters of a caption that stay, before its key: `0.46 `
_SPLITS = {"train": "#0072B2", "val": "#D55E00"}
_SPLIT_NAMES = {"train": "train", "val": "validation"}
_SCORES = {"miou": ("mIoU", "-"), "pixel_accuracy": ("pixel accuracy", "--")}
_DPI = 160


@lru_cache(maxsize=8)
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Load DejaVu Sans, which comes with matplotlib: the same glyphs on every machine."""
    return ImageFont.truetype(findfont("DejaVu Sans:bold" if bold else "DejaVu Sans"), size)


def _clip(text: str, font: ImageFont.FreeTypeFont, width: int, head: int | None = None) -> str:
    """Return the text as one line of at most `width` pixels, cut with an ellipsis at its end, or after `head` characters."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    first, last = (text, "") if head is None else (text[:head], text[head:])
    while (first or last) and font.getlength(f"{first}…{last}") > width:
        first, last = (first, last[1:]) if last else (first[:-1], "")
    return f"{first}…{last}"


def _scaled(image: Image.Image, width: int, resample: Image.Resampling) -> Image.Image:
    """Bring an image to about `width` pixels: whole-number steps up, exact down."""
    if image.width <= width:
        factor = max(1, round(width / image.width))
        return image.resize((image.width * factor, image.height * factor), resample)
    return image.resize((width, max(1, round(image.height * width / image.width))), resample)


def _mask(ids: np.ndarray, colors: np.ndarray, width: int) -> Image.Image:
    """Color class ids uint8 (H, W); ignored pixels become black with gray hatching. Images (H, W, 3) stay as they are."""
    if ids.ndim == 3:
        return _scaled(Image.fromarray(ids), width, Image.Resampling.LANCZOS)
    big = np.asarray(_scaled(Image.fromarray(ids), width, Image.Resampling.NEAREST))
    rgb = colors[big]
    rows, columns = np.indices(big.shape)
    rgb[(big == IGNORE_INDEX) & ((rows + columns) % 12 < 2)] = _HATCH
    return Image.fromarray(rgb)


def panel(
    photo: np.ndarray,
    truth: np.ndarray | None,
    prediction: np.ndarray,
    classes: tuple[Label, ...],
    *,
    titles: tuple[str, str, str] | None = None,
    note: str = "",
    width: int = 480,
) -> Image.Image:
    """Draw photo, truth and prediction side by side, each about `width` pixels wide, under small captions.

    Args:
        photo: uint8 (H, W, 3).
        truth: train ids uint8 (H, W), 255 = ignored (drawn black, hatched), or an image uint8 (H, W, 3); None leaves
            its column out.
        prediction: train ids uint8 (H, W), or an image.
        classes: one label a train id.
        titles: captions; by default photo, truth, prediction, or of images photo, target, output.
        note: one line below, such as the image's key.
        width: pixels a column; small images grow by whole-number steps, so masks stay exact.
    """
    colors = palette(classes)
    images = [_scaled(Image.fromarray(photo), width, Image.Resampling.LANCZOS)]
    images += [_mask(ids, colors, width) for ids in (truth, prediction) if ids is not None]
    titles = titles or (("photo", "truth", "prediction") if prediction.ndim == 2 else ("photo", "target", "output"))
    captions = titles if truth is not None else (titles[0], titles[2])
    wide, high = images[0].size
    top, bottom = _TEXT + 2 * _GAP, _TEXT + 2 * _GAP if note else _GAP
    sheet = Image.new("RGB", (len(images) * (wide + _GAP) + _GAP, top + high + bottom), _PAPER)
    draw, font = ImageDraw.Draw(sheet), _font(_TEXT)
    for column, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left = _GAP + column * (wide + _GAP)
        sheet.paste(image, (left, top))
        draw.text((left, top - _GAP), _clip(caption, font, wide), fill=_INK, font=font, anchor="ls")
    note = _clip(note, font, sheet.width - 2 * _GAP)
    draw.text((_GAP, sheet.height - _GAP), note, fill=_MUTED, font=font, anchor="ls")
    return sheet


def panel_sheet(
    rows: Sequence[Image.Image],
    *,
    title: str = "",
    classes: tuple[Label, ...] = (),
    present: set[int] | None = None,
) -> Image.Image:
    """Put several panels below each other, a title above, and the legend of `classes` (if any) below."""
    top = 2 * _GAP + 20 if title else 0
    width = max((row.width for row in rows), default=480)
    parts = [*rows, legend(classes, present, width=width)] if classes else list(rows)
    sheet = Image.new("RGB", (width, max(1, top + sum(part.height for part in parts))), _PAPER)
    font = _font(20, bold=True)
    ImageDraw.Draw(sheet).text((_GAP, top - 4), _clip(title, font, width - 2 * _GAP), _INK, font, anchor="ls")
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    return sheet


def legend(classes: tuple[Label, ...], present: set[int] | None = None, *, width: int = 960) -> Image.Image:
    """Draw a color swatch and name for each class whose train id is in `present` (None: all).

    The entries wrap into rows of `width` pixels. 255 in `present` adds the swatch of ignored pixels.
    """
    wanted = {label.train_id: label.name for label in classes if present is None or label.train_id in present}
    if present is not None and IGNORE_INDEX in present:
        wanted[IGNORE_INDEX] = "ignored"
    font, colors, swatch, row = _font(_TEXT), palette(classes), 18, 18 + _GAP
    x, y = _GAP, _GAP
    spots: list[tuple[int, int, int, str]] = []
    for train_id, name in wanted.items():
        name = _clip(name, font, width - swatch - 3 * _GAP)
        entry = swatch + 8 + math.ceil(font.getlength(name)) + 2 * _GAP
        if x > _GAP and x + entry > width:
            x, y = _GAP, y + row
        spots.append((x, y, train_id, name))
        x += entry
    image = Image.new("RGB", (width, y + row), _PAPER)
    draw = ImageDraw.Draw(image)
    for x, y, train_id, name in spots:
        image.paste(_mask(np.full((swatch, swatch), train_id, np.uint8), colors, swatch), (x, y))
        draw.rectangle((x, y, x + swatch - 1, y + swatch - 1), outline=_MUTED)
        draw.text((x + swatch + 8, y + swatch // 2), name, fill=_INK, font=font, anchor="lm")
    return image


def contact_sheet(items: Sequence[tuple[str, Image.Image]], columns: int = 3, *, width: int = 320) -> Image.Image:
    """Lay out named pictures in a grid of `columns`, each about `width` pixels wide, names below."""
    pictures = [_scaled(image.convert("RGB"), width, Image.Resampling.LANCZOS) for _, image in items]
    high = max((picture.height for picture in pictures), default=1)
    width = max((picture.width for picture in pictures), default=width)
    cell = (width + _GAP, high + _TEXT + 2 * _GAP)
    rows = max(1, math.ceil(len(items) / columns))
    sheet = Image.new("RGB", (columns * cell[0] + _GAP, rows * cell[1] + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(sheet), _font(_TEXT)
    for index, ((name, _), picture) in enumerate(zip(items, pictures, strict=True)):
        x, y = _GAP + index % columns * cell[0], _GAP + index // columns * cell[1]
        sheet.paste(picture, (x, y))
        draw.text((x, y + high + _TEXT), _clip(name, font, width, _HEAD), fill=_MUTED, font=font, anchor="ls")
    return sheet


def _figure(width: float, height: float) -> tuple[Figure, FigureCanvasAgg]:
    """Return an empty figure (inches) that no global state knows of."""
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor=_PAPER, layout="constrained")
    return figure, FigureCanvasAgg(figure)


def _image(canvas: FigureCanvasAgg) -> Image.Image:
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _tidy(axes: Axes, title: str, grid: str) -> None:
    """Take away what carries no data: spines, tick marks; keep a faint grid along one direction."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=_INK, pad=10)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=9, labelcolor=_MUTED)
    axes.grid(visible=True, axis=grid, color=_LINE, linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def _points(history: Sequence[Mapping[str, Any]], x: str, y: str) -> list[tuple[float, float]]:
    """Return the finite points of one series, in order of x; the line bridges rows without it."""
    pairs = [(row.get(x), row.get(y)) for row in history]
    points = [(float(a), float(b)) for a, b in pairs if a is not None and b is not None]
    return sorted(point for point in points if math.isfinite(point[0]) and math.isfinite(point[1]))


def _line(axes: Axes, points: list[tuple[float, float]], label: str, color: str, style: str = "-") -> None:
    if points:
        marker = "o" if len(points) <= 30 else ""
        axes.plot(*zip(*points, strict=True), style, marker=marker, ms=4, lw=1.8, color=color, label=label)


def curves(history: Sequence[Mapping[str, Any]], *, x: str = "epoch") -> Image.Image:
    """Draw loss (left), mIoU and pixel accuracy (right; PSNR where there is neither) over epochs or steps.

    Args:
        history: rows with `x` and any of `train/loss`, `val/loss`, `train/miou`, `val/miou`,
            `train/pixel_accuracy`, `val/pixel_accuracy` and `val/psnr`. Missing, None and non-finite values are left out.
        x: the key along the horizontal axis, `epoch` or `step`.
    """
    figure, canvas = _figure(10.5, 4.4)
    left, right = figure.subplots(1, 2)
    for split, color in _SPLITS.items():
        _line(left, _points(history, x, f"{split}/loss"), _SPLIT_NAMES[split], color)
        for metric, (name, style) in _SCORES.items():
            points = _points(history, x, f"{split}/{metric}")
            _line(right, points, f"{name}, {_SPLIT_NAMES[split]}", color, style)
    share = bool(right.lines)
    if not share:  # pairs of images
        _line(right, _points(history, x, "val/psnr"), "PSNR in decibels, validation", _SPLITS["val"])
    for axes, title in ((left, "Loss"), (right, "Quality")):
        _tidy(axes, title, "y")
        axes.set_xlabel(x, fontsize=9, color=_MUTED)
        if not axes.lines:
            axes.set(xticks=[], yticks=[])
            axes.text(0.5, 0.5, "nothing measured", ha="center", color=_MUTED, transform=axes.transAxes)
            continue
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.set_xlim(axes.dataLim.x0 - 0.5, axes.dataLim.x1 + 0.5)
        axes.set_ylim(0, 1.02 if axes is right and share else max(1.05 * axes.dataLim.y1, 1e-6))
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14)}  # below: never on top of a line
        axes.legend(frameon=False, fontsize=9, labelcolor=_INK, handlelength=2.4, ncols=2, **place)
    return _image(canvas)


def confusion(matrix: np.ndarray, classes: tuple[Label, ...]) -> Image.Image:
    """Draw a confusion matrix (K, K), rows = truth: each row as shares of its pixels, in percent.

    Classes that occur in neither truth nor prediction are left out; up to 20 classes, cells carry numbers.
    """
    present = np.flatnonzero(matrix.sum(0) + matrix.sum(1))
    counts = matrix[np.ix_(present, present)].astype(float)
    totals = counts.sum(1, keepdims=True)
    blank = np.full_like(counts, np.nan)  # for classes that are predicted but never true
    shares = np.divide(counts, totals, out=blank, where=totals > 0)
    names = {label.train_id: label.name for label in classes}
    side = min(14.0, 2.2 + 0.31 * max(6, len(present)))
    figure, canvas = _figure(side, side)
    axes = figure.subplots()
    _tidy(axes, "Where pixels of each class go (%)", "x")
    axes.grid(visible=False)
    edges = np.arange(0.5, len(present) - 1)
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.grid(which="minor", color=_PAPER, linewidth=1.5)
    axes.tick_params(which="minor", length=0)
    axes.set_axisbelow(False)
    if len(present):
        axes.imshow(shares, cmap=matplotlib.colormaps["Blues"], vmin=0, vmax=1)
    labels = [_clip(names.get(int(train_id), str(train_id)), _font(_TEXT), 150) for train_id in present]
    size = min(9.0, 400 / max(1, len(present)))
    axes.set_xticks(range(len(present)), labels, rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(range(len(present)), labels, fontsize=size, parse_math=False)
    axes.set_xlabel("prediction", fontsize=9, color=_MUTED)
    axes.set_ylabel("truth", fontsize=9, color=_MUTED)
    if len(present) <= 20:
        for row, column in np.argwhere(shares >= 0.005):
            value = shares[row, column]
            color = "white" if value > 0.55 else _INK
            axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=7.5, color=color)
    return _image(canvas)


def iou_bars(per_class_iou: Sequence[float | None], classes: tuple[Label, ...]) -> Image.Image:
    """Draw the IoU (0-1) of each class as a bar in its color, best on top; None = no pixels of it.

    Args:
        per_class_iou: one value a train id.
        classes: one label a train id.
    """
    known = {i: float(iou) for i, iou in enumerate(per_class_iou) if iou is not None and math.isfinite(iou)}
    labels = sorted(classes, key=lambda label: known.get(label.train_id, -1.0), reverse=True)
    colors = palette(classes) / 255
    figure, canvas = _figure(7.5, 1.1 + 0.3 * max(3, len(labels)))
    axes = figure.subplots()
    mean = f", mean {sum(known.values()) / len(known):.3f}" if known else ""
    _tidy(axes, f"Intersection over union{mean}", "x")
    for row, label in enumerate(labels):
        iou = known.get(label.train_id)
        axes.barh(row, iou or 0, height=0.68, color=colors[label.train_id], edgecolor=_MUTED, linewidth=0.5)
        text, color = ("no pixels", _MUTED) if iou is None else (f"{iou:.3f}", _INK)
        axes.text((iou or 0) + 0.012, row, text, va="center", fontsize=8.5, color=color)
    names = [_clip(label.name, _font(_TEXT), 220) for label in labels]
    axes.set_yticks(range(len(labels)), names, color=_INK, parse_math=False)
    axes.set(xlim=(0, 1.1), ylim=(len(labels) - 0.4, -0.6), xticks=[0, 0.25, 0.5, 0.75, 1])
    return _image(canvas)
