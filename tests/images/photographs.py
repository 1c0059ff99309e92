"""Photographs of every format, mode, size and orientation that is read, a few kilobytes each."""

import io

import numpy as np
from PIL import Image

MODES = {
    "JPEG": ("L", "RGB", "CMYK"),
    "MPO": ("RGB",),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "GIF": ("L", "P"),
    "PPM": ("1", "L", "RGB", "I;16"),
    "JPEG2000": ("L", "LA", "RGB", "RGBA"),
    "AVIF": ("RGB", "RGBA"),
}
SIZES = ((24, 16), (5, 3), (1, 1), (97, 61), (1, 200), (300, 2), (61, 700))
"""Width and height: the model's own, smaller, larger, very thin, and of several bands of rows."""


def draw(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Draw colored patches with some noise."""
    rng = np.random.default_rng((seed, width, height))
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8)).resize((width, height))
    noisy = np.clip(np.asarray(coarse).astype(int) + rng.integers(-9, 10, (height, width, 3)), 0, 255)
    rgb = Image.fromarray(noisy.astype(np.uint8))
    gray = noisy[..., 0]
    if mode == "I;16":
        return Image.fromarray((gray * 257).astype(np.uint16))
    if mode == "I":
        return Image.fromarray((gray * 257).astype(np.int32))
    if mode == "F":
        return Image.fromarray((gray / 255).astype(np.float32))
    if mode == "LAB":
        return Image.merge("LAB", rgb.split())
    image = rgb.convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(rgb.getchannel("G"))
    return image


def encode(image: Image.Image, kind: str, turn: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = turn
    options = {"exif": exif} if turn > 1 else {}
    if kind in ("JPEG", "MPO", "WEBP"):
        options["quality"] = 90
    if kind == "MPO":
        options |= {"save_all": True, "append_images": [draw(*image.size, seed=1)]}
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photographs() -> dict[str, bytes]:
    """Return the content of each photograph by a name that tells what it is, without an extension."""
    made = {}
    for kind, modes in MODES.items():
        for mode in modes:
            made[f"{kind}-{mode.replace(';', '')}"] = encode(draw(97, 61, mode), kind)
    for kind in ("JPEG", "PNG", "TIFF"):
        for width, height in SIZES:
            made[f"{kind}-{width}x{height}"] = encode(draw(width, height), kind)
    for kind in ("JPEG", "PNG", "TIFF", "WEBP"):
        for turn in range(1, 9):
            made[f"{kind}-turn-{turn}"] = encode(draw(97, 61), kind, turn)
    for turn in range(2, 9):
        made[f"TIFF-61x700-turn-{turn}"] = encode(draw(61, 700), "TIFF", turn)
        made[f"JPEG-L-turn-{turn}"] = encode(draw(97, 61, "L"), "JPEG", turn)
    return made
