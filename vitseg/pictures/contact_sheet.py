"""A contact sheet: many named pictures in a grid."""

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from vitseg.pictures.style import GAP, MUTED, PAPER, TEXT, fit_text, load_font, resize_to_width

_HEAD = 5  # characters of a name that stay when it is cut in its middle: `0.46 `


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
