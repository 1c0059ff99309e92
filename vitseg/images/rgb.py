"""A decoded image of any mode as RGB."""

import numpy as np
from PIL import Image


def to_rgb(image: Image.Image, scale: float | None = None) -> Image.Image:
    """Turn an image of any mode into RGB; floats are multiplied by `scale`, by default by their `float_scale`."""
    if image.mode.startswith("I"):  # I;16 and friends; I holds 16-bit values, too
        values = np.clip(np.asarray(image).astype(np.int32), 0, 65_535)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        floats = np.nan_to_num(np.asarray(image))
        scale = scale or float_scale(image)
        return Image.fromarray(np.clip(floats * scale, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "P":
        image = image.convert("RGBA")  # straight to RGB, Pillow warns about palettes with transparency
    return image if image.mode == "RGB" else image.convert("RGB")


def float_scale(image: Image.Image) -> float:
    """Return the factor that makes bytes of floats: 255 where none is over 1, else 1."""
    values = np.asarray(image)  # getextrema would take a NaN for the largest
    return 255.0 if np.nanmax(values, initial=0.0, where=np.isfinite(values)) <= 1 else 1.0
