"""What all pictures share: colors, spacing, the font, text that fits its place, images that fit a column."""

from functools import lru_cache

from matplotlib.font_manager import findfont
from PIL import Image, ImageFont

PAPER, INK, MUTED, LINE = "#ffffff", "#1f2328", "#6b7280", "#e5e7eb"
GAP, TEXT = 12, 15
"""Pixels: the gap between parts of a picture, and the height of a line of text."""


@lru_cache(maxsize=8)
def load_font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which comes with matplotlib: the same glyphs on every machine."""
    return ImageFont.truetype(findfont("DejaVu Sans:bold" if bold else "DejaVu Sans"), size)


def fit_text(text: str, font: ImageFont.FreeTypeFont, width: int, head: int | None = None) -> str:
    """Return the text as one line of at most `width` pixels, shortened by an ellipsis at its end or after `head` characters."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    first, last = (text, "") if head is None else (text[:head], text[head:])
    while (first or last) and font.getlength(f"{first}…{last}") > width:
        first, last = (first, last[1:]) if last else (first[:-1], "")
    return f"{first}…{last}"


def resize_to_width(image: Image.Image, width: int, resample: Image.Resampling) -> Image.Image:
    """Resize an image to about `width` pixels: enlarge by a whole factor, or shrink to exactly this width."""
    if image.width <= width:
        factor = max(1, round(width / image.width))
        return image.resize((image.width * factor, image.height * factor), resample)
    return image.resize((width, max(1, round(image.height * width / image.width))), resample)
