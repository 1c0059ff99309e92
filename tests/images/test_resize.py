import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tests.images.photographs import draw, encode, photographs
from vitseg.images import decode, png, rows
from vitseg.images.decode import StoredPixels, decode_image, to_rgb
from vitseg.images.resize import model_input, resize, resize_rows
from vitseg.images.rows import DecodedPhoto

LIMIT = 1_000_000
SIZE = (16, 24)
PHOTOGRAPHS = photographs()
SIDES = st.tuples(st.integers(1, 90), st.integers(1, 90))


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_the_model_gets_the_upright_photograph_resized(name, monkeypatch):
    data = PHOTOGRAPHS[name]
    with Image.open(io.BytesIO(data)) as image:
        upright = np.asarray(to_rgb(ImageOps.exif_transpose(image)))
    np.testing.assert_array_equal(np.asarray(decode_image(data, LIMIT)), upright)
    pixels, size = model_input(data, SIZE, LIMIT)
    assert size == upright.shape[:2]
    np.testing.assert_array_equal(pixels, resize(upright, SIZE))
    monkeypatch.setattr(decode, "decode_jpeg", lambda *_: None)  # whichever decoder reads it
    monkeypatch.setattr(png, "decode_png", lambda *_: None)
    np.testing.assert_array_equal(model_input(data, SIZE, LIMIT)[0], pixels)


@settings(deadline=None, max_examples=100)
@given(SIDES, SIDES, st.integers(1, 40), st.integers(0, 99))
def test_bands_give_what_the_whole_gives(given_size, size, band, seed):
    pixels = noise(*given_size, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vitseg.images.rows.BAND", band)
        np.testing.assert_array_equal(
            resize_rows(DecodedPhoto(StoredPixels(Image.fromarray(pixels))), size), resize(pixels, size)
        )


@settings(deadline=None, max_examples=200)
@given(st.integers(2, 5000), st.sampled_from([8, 24, 96, 224, 256, 384, 512, 1024]), st.booleans(), st.integers(0, 99))
def test_turning_before_and_after_is_the_same(given_side, side, extreme, seed):
    """So a photograph may be turned when it is small."""
    pixels = noise(2, given_side, seed)
    pixels = np.where(pixels > 127, 255, 0).astype(np.uint8) if extreme else pixels
    small = resize(pixels, (2, side))
    np.testing.assert_array_equal(resize(pixels[:, ::-1], (2, side)), small[:, ::-1])
    np.testing.assert_array_equal(resize(pixels.swapaxes(0, 1), (side, 2)), small.swapaxes(0, 1))


@settings(deadline=None, max_examples=60)
@given(SIDES, SIDES, st.integers(0, 99))
def test_the_filter_is_pillows_bicubic_but_for_rounding(given_size, size, seed):
    pixels = noise(*given_size, seed)
    wide = Image.fromarray(pixels).resize((size[1], given_size[0]), Image.Resampling.BICUBIC)
    wanted = np.asarray(wide.resize(size[::-1], Image.Resampling.BICUBIC))
    assert np.abs(resize(pixels, size).astype(int) - wanted).max() <= 2  # a rounding in each direction


def test_nothing_is_done_to_an_image_of_the_right_size():
    pixels = noise(*SIZE)
    np.testing.assert_array_equal(resize(pixels, SIZE), pixels)


def test_how_an_image_lies_in_memory_and_how_many_threads_there_are_changes_nothing():
    pixels = noise(61, 97)
    pixels.flags.writeable = False
    wanted = resize(pixels, SIZE)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        np.testing.assert_array_equal(resize(np.asfortranarray(pixels), SIZE), wanted)
    finally:
        torch.set_num_threads(threads)


def test_a_large_photograph_is_not_held_as_an_array(monkeypatch):
    data = encode(draw(61, 700), "TIFF")
    wanted, _ = model_input(data, SIZE, LIMIT)
    most, read = 0, rows.DecodedPhoto.rows

    def watched(self, top, bottom):
        nonlocal most
        most = max(most, bottom - top)
        return read(self, top, bottom)

    monkeypatch.setattr(rows.DecodedPhoto, "rows", watched)
    np.testing.assert_array_equal(model_input(data, SIZE, LIMIT)[0], wanted)
    assert most == rows.BAND
