import numpy as np
import pytest
from PIL import Image

from tests.images.photographs import draw
from vitseg.images.rgb import float_scale, to_rgb


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"])
def test_every_mode_becomes_rgb(mode):
    image = to_rgb(draw(9, 7, mode))
    assert (image.mode, image.size) == ("RGB", (9, 7))


@pytest.mark.parametrize(
    ("values", "scale"), [([0, 0.5, 1], 255), ([0, 2, 250], 1), ([np.nan, np.inf, 0.5], 255), ([], 255)]
)
def test_floats_are_0_to_1_or_0_to_255(values, scale):
    assert float_scale(np.array([values], np.float32)) == scale


def test_floats_of_a_part_are_scaled_as_the_whole():
    part = Image.fromarray(np.array([[0.5, np.nan, 300]], np.float32))
    assert np.asarray(to_rgb(part, scale=1.0))[0, :, 0].tolist() == [0, 0, 255]
    assert np.asarray(to_rgb(Image.fromarray(np.array([[0.5]], np.float32))))[0, 0].tolist() == [127] * 3


def test_16_bit_values_are_divided_by_257_and_rounded():
    image = Image.fromarray(np.array([[0, 128, 129, 257, 65_535]], np.uint16))
    assert np.asarray(to_rgb(image))[0, :, 0].tolist() == [0, 0, 1, 1, 255]
