import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vitseg.images import jpeg
from vitseg.images.jpeg import decode_jpeg

pytest.importorskip("simplejpeg")


def picture(height, width, seed=0):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8)).resize((width, height))
    return np.clip(np.asarray(coarse).astype(int) + rng.integers(-9, 9, (height, width, 3)), 0, 255).astype(np.uint8)


def encode(pixels, mode="RGB", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.sampled_from(["RGB", "L"]),
    st.integers(1, 100),
    st.integers(0, 2),
    st.booleans(),
    st.integers(0, 99),
)
def test_the_pixels_are_those_of_pillow(size, mode, quality, subsampling, progressive, seed):
    options = {"subsampling": subsampling} if mode == "RGB" else {}
    data = encode(picture(*size, seed), mode, quality=quality, progressive=progressive, **options)
    pixels = decode_jpeg(data, size, gray=True)
    assert pixels is not None
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.95])
def test_what_is_cut_off_is_left_to_pillow(kept):
    data = encode(picture(60, 80))
    assert decode_jpeg(data[: int(kept * len(data))], (60, 80)) is None


def test_other_colors_sizes_and_formats_are_left_to_pillow(monkeypatch):
    assert decode_jpeg(encode(picture(20, 30), "CMYK"), (20, 30)) is None
    assert decode_jpeg(encode(picture(20, 30), "L"), (20, 30)) is None
    assert decode_jpeg(encode(picture(20, 30)), (30, 20)) is None
    assert decode_jpeg(b"", (20, 30)) is None
    assert decode_jpeg(b"\x89PNG\r\n\x1a\n", (20, 30)) is None
    monkeypatch.setattr(jpeg, "simplejpeg", None)
    assert decode_jpeg(encode(picture(20, 30)), (20, 30)) is None
