import io

import numpy as np
import pytest
from PIL import Image

from tests.inference.conftest import encode
from vitseg.data.samples import encode_photo
from vitseg.images import jpeg, resize
from vitseg.images.resize import model_input

LIMIT = 1_000_000


def test_the_model_sees_what_preprocessing_would_have_shown_it():
    grain = np.random.default_rng(0).integers(0, 256, (90, 120, 1), np.uint8).repeat(3, 2)
    pixels, size = model_input(encode(grain), (30, 32), LIMIT)
    assert size == (90, 120)
    assert pixels.shape == (3, 30, 32)
    trained_on = np.asarray(Image.open(io.BytesIO(encode_photo(Image.fromarray(grain), (30, 32)))))
    assert np.abs(pixels.transpose(1, 2, 0).astype(int) - trained_on).mean() < 3  # but for its JPEG


@pytest.mark.parametrize("large", [10**9, 100])
def test_photographs_of_all_formats_and_sizes_are_shrunk_alike(monkeypatch, large):
    monkeypatch.setattr(resize, "LARGE_PIXELS", large)
    grain = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    photo = Image.fromarray(grain).resize((160, 90))
    wanted = np.asarray(photo.resize((32, 24), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    pixels, size = model_input(encode(photo), (24, 32), LIMIT)
    assert size == (90, 160)
    assert np.abs(pixels.astype(int) - wanted).max() <= 1


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("turn", range(9))
def test_a_jpeg_gives_what_pillow_gives_of_it(monkeypatch, turn, mode):
    grain = np.random.default_rng(turn).integers(0, 256, (9, 7, 3), np.uint8)
    photo = Image.fromarray(grain).resize((160, 90)).convert(mode)
    exif = photo.getexif()
    exif[0x0112] = turn
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", exif=exif)
    pixels, size = model_input(buffer.getvalue(), (24, 32), LIMIT)
    monkeypatch.setattr(jpeg, "simplejpeg", None)
    theirs, their_size = model_input(buffer.getvalue(), (24, 32), LIMIT)
    assert size == their_size == ((160, 90) if turn >= 5 else (90, 160))
    assert pixels.shape == theirs.shape == (3, 24, 32)
    assert np.abs(pixels.astype(int) - theirs).max() <= 1
