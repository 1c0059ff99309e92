import io

import numpy as np
import pytest
from PIL import Image

from tests.data.conftest import colors_of
from vitseg.data.pairs import find_pair, split_pair
from vitseg.errors import SampleError
from vitseg.labels import CITYSCAPES
from vitseg.storage import LocalStore

SIDE = 128
TRAINED = [label.color for label in CITYSCAPES if label.train_id < 19]


def photograph(seed: int = 0, width: int = SIDE, height: int = SIDE) -> np.ndarray:
    """Return something that has plain and uneven areas of any colors, as photographs have."""
    rng = np.random.default_rng(seed)
    smooth = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    noise = rng.normal(0, rng.choice([0, 3, 12]), (height, width, 3))
    return (np.asarray(smooth) + noise).clip(0, 255).astype(np.uint8)


def label(seed: int = 0, shapes: int = 8, side: int = SIDE) -> np.ndarray:
    """Return boxes of random classes on another one."""
    rng = np.random.default_rng(seed)
    pixels = np.full((side, side, 3), TRAINED[rng.integers(19)], np.uint8)
    for _ in range(shapes):
        top, left, height, width = rng.integers(side // 8, side // 2, 4)
        pixels[top : top + height, left : left + width] = TRAINED[rng.integers(19)]
    return pixels


def jpeg(pixels: np.ndarray, quality: int = 75) -> Image.Image:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def beside(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.concatenate([left, right], axis=1)


@pytest.mark.parametrize("quality", [50, 75, 95])
def test_a_label_that_went_through_jpeg_is_one(quality):
    for seed in range(12):
        pair = jpeg(beside(photograph(seed), label(seed, shapes=seed)), quality)
        photo, colors = split_pair(pair, CITYSCAPES)
        np.testing.assert_array_equal(beside(photo, colors), np.asarray(pair))


@pytest.mark.parametrize("color", [(0, 0, 0), (70, 70, 70), (128, 64, 128), (0, 0, 142)])
def test_a_plain_label_is_one(color):
    split_pair(jpeg(beside(photograph(), np.full((SIDE, SIDE, 3), color, np.uint8))), CITYSCAPES)


@pytest.mark.parametrize("color", [(0, 0, 0), (128, 128, 128), (255, 255, 255)])
def test_a_plain_photograph_is_one(color):
    split_pair(jpeg(beside(np.full((SIDE, SIDE, 3), color, np.uint8), label())), CITYSCAPES)


def test_a_small_thing_on_black_is_a_label():
    colors = np.zeros((SIDE, SIDE, 3), np.uint8)
    colors[60:66, 60:66] = (0, 0, 142)
    split_pair(jpeg(beside(photograph(), colors)), CITYSCAPES)


def gray(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels.mean(-1, keepdims=True), 3, -1).astype(np.uint8)


NO_PAIRS = {
    "a photograph": lambda seed: photograph(seed, 2 * SIDE),
    "a gray one": lambda seed: gray(photograph(seed, 2 * SIDE)),
    "dusk": lambda seed: photograph(seed, 2 * SIDE) // 4,
    "night": lambda seed: photograph(seed, 2 * SIDE) // 20,
    "fog": lambda seed: photograph(seed, 2 * SIDE) // 12 + 60,
    "black": lambda seed: np.zeros((SIDE, 2 * SIDE, 3), np.uint8),
    "a color of a class": lambda seed: np.full((SIDE, 2 * SIDE, 3), TRAINED[seed % 19], np.uint8),
    "two labels": lambda seed: beside(label(seed), label(seed + 1)),
    "the label left": lambda seed: beside(label(seed), photograph(seed)),
    "colors of no class": lambda seed: beside(photograph(seed), label(seed) // 128 * 120 + 40),
    "noise": lambda seed: np.random.default_rng(seed).integers(0, 256, (SIDE, 2 * SIDE, 3), dtype=np.uint8),
    "ids": lambda seed: beside(photograph(seed), np.full((SIDE, SIDE, 3), 23, np.uint8)),
}


@pytest.mark.parametrize("name", NO_PAIRS)
def test_what_has_the_shape_of_a_pair_and_is_none(name):
    for seed in range(12):
        with pytest.raises(SampleError, match=r"^no pair: "):
            split_pair(jpeg(NO_PAIRS[name](seed)), CITYSCAPES)


@pytest.mark.parametrize("side", [1, 2, 3])
def test_the_smallest_images_are_looked_at_too(side):
    plain = np.full((side, side, 3), 128, np.uint8)
    with pytest.raises(SampleError, match="no pair"):
        split_pair(Image.fromarray(beside(plain, plain)), CITYSCAPES)


def test_one_pair_is_found_and_else_the_first_reason(tmp_path):
    store = LocalStore(tmp_path)
    Image.fromarray(photograph(0, 2 * SIDE)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"x")
    found, why = find_pair(store, store.list(), CITYSCAPES)
    assert not found
    assert why.startswith("a.png: no pair")
    _, ids = np.divmod(np.arange(SIDE * SIDE).reshape(SIDE, SIDE) // 2048 + 7, 30)
    Image.fromarray(beside(photograph(), colors_of(ids))).save(tmp_path / "c.png")
    assert find_pair(store, store.list(), CITYSCAPES)[0]
