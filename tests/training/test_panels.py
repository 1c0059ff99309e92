"""The picture of a pretraining: photo, what the encoder sees of it, and what it makes of that."""

import numpy as np
import pytest
import torch

from tests.training.conftest import small_recipe
from vitseg.data.loader import Batch
from vitseg.model.masked_autoencoder import build_masked
from vitseg.training.panels import draw_panels


@pytest.mark.parametrize("pixels", ["fixed", "image"])
def test_the_photo_is_shown_in_its_own_colors(pixels: str) -> None:
    recipe = small_recipe(f"model.pixels={pixels}")
    dark = torch.from_numpy(np.random.default_rng(0).integers(20, 60, (1, 3, 32, 64), dtype=np.uint8))
    batch = Batch(keys=["one"], images=dark, labels=torch.zeros(1, 32, 64, dtype=torch.uint8))
    model = build_masked(recipe.model, (32, 64), recipe.masked, seed=0)
    sheet = np.asarray(draw_panels(model, batch, recipe).convert("RGB"))
    shown = {tuple(pixel) for pixel in sheet.reshape(-1, 3).tolist()}
    drawn = {tuple(pixel) for pixel in dark[0].permute(1, 2, 0).reshape(-1, 3).tolist()}
    assert len({pixel for pixel in drawn if any(near(pixel, other) for other in shown)}) > 0.95 * len(drawn)


def near(pixel: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return all(abs(one - two) <= 1 for one, two in zip(pixel, other, strict=True))
