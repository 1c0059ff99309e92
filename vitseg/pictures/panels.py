"""Panels (photo | ground truth | prediction), sheets of several, the legend of their classes, and contact sheets.

Every function returns a new RGB `PIL.Image`.
"""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from vitseg.labels import IGNORE_INDEX, Label, palette
from vitseg.pictures.style import GAP, INK, MUTED, PAPER, TEXT, fit_text, load_font, resize_to_width

_HATCH = (96, 96, 96)
_HEAD = 5  # characters of a name that stay when it is cut in its middle: `0.46 `


def panel(
    photo: np.ndarray,
    ground_truth: np.ndarray | None,
    prediction: np.ndarray,
    classes: tuple[Label, ...],
    *,
    note: str = "",
    width: int = 480,
) -> Image.Image:
    """Draw photo, ground truth and prediction side by side, each about `width` pixels wide, under small captions.

    Each is an image uint8 (H, W, 3), the latter two may be train ids uint8 (H, W), 255 = ignored (black, hatched); None
    omits the ground truth. `note` is one line below. Small images grow by a whole factor, so masks stay exact.
    """
    colors = palette(classes)
    images = [resize_to_width(Image.fromarray(photo), width, Image.Resampling.LANCZOS)]
    images += [_colored(ids, colors, width) for ids in (ground_truth, prediction) if ids is not None]
    captions = ["photo", "ground truth", "prediction"] if prediction.ndim == 2 else ["photo", "target", "output"]
    if ground_truth is None:
        del captions[1]
    wide, high = images[0].size
    top, bottom = TEXT + 2 * GAP, TEXT + 2 * GAP if note else GAP
    sheet = Image.new("RGB", (len(images) * (wide + GAP) + GAP, top + high + bottom), PAPER)
    draw, font = ImageDraw.Draw(sheet), load_font(TEXT)
    for column, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left = GAP + column * (wide + GAP)
        sheet.paste(image, (left, top))
        draw.text((left, top - GAP), fit_text(caption, font, wide), fill=INK, font=font, anchor="ls")
    note = fit_text(note, font, sheet.width - 2 * GAP)
    draw.text((GAP, sheet.height - GAP), note, fill=MUTED, font=font, anchor="ls")
    return sheet


def panel_sheet(
    rows: Sequence[Image.Image],
    *,
    title: str = "",
    classes: tuple[Label, ...] = (),
    present: set[int] | None = None,
) -> Image.Image:
    """Stack panels under a title, with the legend of `classes` (if any) at the bottom."""
    top = 2 * GAP + 20 if title else 0
    width = max((row.width for row in rows), default=480)
    parts = [*rows, legend(classes, present, width=width)] if classes else list(rows)
    sheet = Image.new("RGB", (width, max(1, top + sum(part.height for part in parts))), PAPER)
    font = load_font(20, bold=True)
    ImageDraw.Draw(sheet).text((GAP, top - 4), fit_text(title, font, width - 2 * GAP), INK, font, anchor="ls")
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    return sheet


def contact_sheet(items: Sequence[tuple[str, Image.Image]], columns: int = 3, *, width: int = 320) -> Image.Image:
    """Draw named pictures in a grid of `columns`, each about `width` pixels wide, with its name below."""
    pictures = [resize_to_width(image.convert("RGB"), width, Image.Resampling.LANCZOS) for _, image in items]
    high = max((picture.height for picture in pictures), default=1)
    width = max((picture.width for picture in pictures), default=width)
    cell = (width + GAP, high + TEXT + 2 * GAP)
    rows = max(1, math.ceil(len(items) / columns))
    sheet = Image.new("RGB", (columns * cell[0] + GAP, rows * cell[1] + GAP), PAPER)
    draw, font = ImageDraw.Draw(sheet), load_font(TEXT)
    for index, ((name, _), picture) in enumerate(zip(items, pictures, strict=True)):
        x, y = GAP + index % columns * cell[0], GAP + index // columns * cell[1]
        sheet.paste(picture, (x, y))
        draw.text((x, y + high + TEXT), fit_text(name, font, width, _HEAD), fill=MUTED, font=font, anchor="ls")
    return sheet


def legend(classes: tuple[Label, ...], present: set[int] | None = None, *, width: int = 960) -> Image.Image:
    """Draw the color and name of each class whose train id is in `present` (None: all).

    Entries wrap into rows of `width` pixels. 255 in `present` adds an entry for ignored pixels.
    """
    names = {label.train_id: label.name for label in classes if present is None or label.train_id in present}
    if present is not None and IGNORE_INDEX in present:
        names[IGNORE_INDEX] = "ignored"
    font, colors, swatch, row = load_font(TEXT), palette(classes), 18, 18 + GAP
    x, y = GAP, GAP
    entries: list[tuple[int, int, int, str]] = []
    for train_id, name in names.items():
        name = fit_text(name, font, width - swatch - 3 * GAP)
        entry = swatch + 8 + math.ceil(font.getlength(name)) + 2 * GAP
        if x > GAP and x + entry > width:
            x, y = GAP, y + row
        entries.append((x, y, train_id, name))
        x += entry
    image = Image.new("RGB", (width, y + row), PAPER)
    draw = ImageDraw.Draw(image)
    for x, y, train_id, name in entries:
        image.paste(_colored(np.full((swatch, swatch), train_id, np.uint8), colors, swatch), (x, y))
        draw.rectangle((x, y, x + swatch - 1, y + swatch - 1), outline=MUTED)
        draw.text((x + swatch + 8, y + swatch // 2), name, fill=INK, font=font, anchor="lm")
    return image


def _colored(ids: np.ndarray, colors: np.ndarray, width: int) -> Image.Image:
    """Color train ids uint8 (H, W), ignored pixels black with gray hatching. An image (H, W, 3) keeps its colors."""
    if ids.ndim == 3:
        return resize_to_width(Image.fromarray(ids), width, Image.Resampling.LANCZOS)
    ids = np.asarray(resize_to_width(Image.fromarray(ids), width, Image.Resampling.NEAREST))
    rgb = colors[ids]
    rows, columns = np.indices(ids.shape)
    rgb[(ids == IGNORE_INDEX) & ((rows + columns) % 12 < 2)] = _HATCH
    return Image.fromarray(rgb)
