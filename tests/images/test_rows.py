from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.inference.conftest import encode
from vitseg.errors import SampleError, StoreFullError
from vitseg.images import rows as photo_module
from vitseg.images.decode import StoredPixels, decode_image
from vitseg.images.rows import DecodedPhoto, open_photo, pixel_moments

LIMIT = 1_000_000


def whole(data: bytes, step: int) -> np.ndarray:
    with open_photo(data, LIMIT) as photo:
        height, width = photo.size
        rows = np.concatenate([photo.rows(top, min(top + step, height)) for top in range(0, height, step)])
        assert rows.shape == (height, width, 3)
    return rows


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("spilled", [False, True])
@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8, 0, 99])
def test_rows_are_those_of_the_upright_image(orientation, spilled, monkeypatch):
    monkeypatch.setattr(photo_module, "SPILLED_PIXELS", 10 if spilled else 10**9)
    monkeypatch.setattr(photo_module, "BAND", 3)
    noise = np.random.default_rng(orientation).integers(0, 256, (7, 11, 3), np.uint8)
    data = encode(noise, exif=turned(orientation))
    seen = np.asarray(decode_image(data, LIMIT))
    for step in (1, 4, 100):
        np.testing.assert_array_equal(whole(data, step), seen)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "I;16", "I", "F"])
def test_rows_of_every_mode_are_those_of_the_decoded_image(mode):
    values = np.random.default_rng(0).integers(0, 256, (9, 8, 3), np.uint8)
    if mode == "I;16":
        image = Image.fromarray(values[..., 0].astype(np.uint16) * 257)
    elif mode == "I":
        image = Image.fromarray(values[..., 0].astype(np.int32) * 257)
    elif mode == "F":  # the brightest value lies in one row alone
        image = Image.fromarray(np.where(np.arange(9)[:, None] == 8, 200.0, values[..., 0] / 255).astype(np.float32))
    else:
        image = Image.fromarray(values).convert(mode)
    data = encode(image, "TIFF" if mode in ("CMYK", "I", "F") else "PNG")
    np.testing.assert_array_equal(whole(data, 2), np.asarray(decode_image(data, LIMIT)))


def test_a_full_temporary_folder_is_an_error_that_names_the_remedy(monkeypatch):
    monkeypatch.setattr(photo_module, "SPILLED_PIXELS", 10)
    full = Path("/dev/full")  # has no room for what is written to it
    monkeypatch.setattr("tempfile.TemporaryFile", lambda *, buffering=-1, **_: full.open("w+b", buffering))
    noise = np.random.default_rng(0).integers(0, 255, (9, 9, 3), np.uint8)
    with pytest.raises(StoreFullError, match="set TMPDIR"), open_photo(encode(noise), LIMIT):
        pass


def test_broken_and_too_large_images_are_refused_with_their_reason():
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    with pytest.raises(SampleError, match="broken"), open_photo(encode(noise)[:-500], LIMIT):
        pass
    with pytest.raises(SampleError, match="64x64"), open_photo(encode(noise), 64 * 64 - 1):
        pass


@settings(max_examples=20)
@given(st.integers(1, 300), st.integers(1, 9), st.integers(0, 99))
def test_moments_are_those_of_all_pixels(height, width, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    mean, deviation = pixel_moments(DecodedPhoto(StoredPixels(Image.fromarray(pixels))))
    assert mean == pytest.approx(pixels.mean())
    assert deviation == pytest.approx(pixels.std())
