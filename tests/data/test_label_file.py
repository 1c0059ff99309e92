import io

import numpy as np
import pytest
from PIL import Image

from vitseg.data.label_file import label_file, palette_colors

PIXELS = np.arange(12, dtype=np.uint8).reshape(3, 4)


def saved(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return Image.open(io.BytesIO(out.getvalue())), out.getvalue()


@pytest.mark.parametrize(
    ("pixels", "kind", "bits"),
    [
        (PIXELS > 3, "PNG", 1), (PIXELS, "PNG", 8), (PIXELS.astype(np.uint16), "PNG", 16), (PIXELS > 3, "TIFF", 1),
        (PIXELS, "TIFF", 8), (PIXELS.astype(np.uint16), "TIFF", 16), (PIXELS.astype(np.float32), "TIFF", 8), (PIXELS, "BMP", 8),
    ],
)  # fmt: skip
def test_bits_are_those_of_the_file(pixels, kind, bits):
    assert label_file(*saved(Image.fromarray(pixels), kind)).bits == bits


def test_formats_that_change_values_are_named():
    rgb = Image.fromarray(PIXELS).convert("RGB")
    assert label_file(*saved(rgb, "JPEG")).lossy == "JPEG"
    assert label_file(*saved(rgb, "WEBP")).lossy == "WEBP"
    assert label_file(*saved(rgb, "AVIF")).lossy == "AVIF"
    for kind in ("PNG", "TIFF", "BMP", "GIF"):
        assert label_file(*saved(rgb, kind)).lossy == ""
    assert label_file(*saved(rgb, "WEBP", lossless=True)).lossy == ""


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_palette_has_colors_and_transparent_entries(kind):
    image = Image.fromarray(PIXELS)
    image.putpalette([value for entry in range(12) for value in (entry, 9, 200)])
    header, data = saved(image, kind, transparency=5)
    assert palette_colors(header)[:12].tolist() == [[entry, 9, 200] for entry in range(12)]
    assert label_file(header, data).clear == b"\xff" * 5 + b"\0"
    assert label_file(*saved(image, kind)).clear == b""
