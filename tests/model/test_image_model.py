"""What goes into every network: pixels, normalized inside it."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from vitseg.architecture import Architecture
from vitseg.images.decode import StoredPixels
from vitseg.images.rows import DecodedPhoto, pixel_moments
from vitseg.model.segmenter import build_model

ARCH = Architecture(
    patch_size=8, spatial_embedding=8, encoder_projection=56, blocks=2, heads=2, head_width=16, mlp_units=(96, 64),
    features_per_patch=32, decoder_projection=64, decoder_mlp_units=(128,),
)  # fmt: skip


def photos(count: int = 2, size: tuple[int, int] = (32, 48), seed: int = 0) -> torch.Tensor:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 3, *size), dtype=np.uint8)
    return torch.from_numpy(pixels)


def test_bytes_and_floats_give_the_same():
    model = build_model(ARCH, (32, 48), 19, seed=0)
    assert torch.equal(model(photos()), model(photos().float()))
    assert torch.equal(model(photos()), model(photos().contiguous(memory_format=torch.channels_last)))


def test_pixels_are_normalized_inside():
    model = build_model(ARCH, (8, 8), 2, seed=0)
    values = model.normalize(torch.tensor([0, 255], dtype=torch.uint8).repeat(1, 3, 8, 4))
    assert torch.allclose(values[..., 0], torch.tensor(-2.0))
    assert torch.allclose(values[..., 1], torch.tensor(2.0))
    assert {"mean", "std"} <= model.state_dict().keys()


@pytest.mark.parametrize(("pixels", "tolerated"), [("image", True), ("fixed", False)])
def test_how_bright_a_day_was_matters_only_where_pixels_are_fixed(pixels, tolerated):
    model = build_model(dataclasses.replace(ARCH, pixels=pixels), (32, 48), 19, seed=0)
    bright = photos().float()
    dark = 0.4 * bright + 10
    assert torch.allclose(model(bright), model(dark), atol=0.02 * float(model(bright).abs().max())) == tolerated


def test_each_photograph_is_normalized_by_itself_with_its_colors_in_balance():
    model = build_model(dataclasses.replace(ARCH, pixels="image"), (32, 48), 19, seed=0)
    images = photos().float() * torch.tensor([1.0, 0.5])[:, None, None, None]
    images[:, 0] *= 0.5
    values = model.normalize(images)
    assert torch.allclose(values.mean((1, 2, 3)), torch.zeros(2), atol=1e-4)
    assert torch.allclose(values.std((1, 2, 3)), torch.ones(2), atol=0.05)
    assert bool((values[:, 0].mean((1, 2)) < values[:, 1].mean((1, 2)) - 0.2).all())  # less red than green, still
    assert torch.equal(model(images)[1], model(images[1:])[0])


def test_windows_are_normalized_as_the_photograph_they_are_from():
    model = build_model(dataclasses.replace(ARCH, pixels="image"), (32, 48), 19, seed=0)
    whole, photo = photos(1), photos(1)[0].permute(1, 2, 0).numpy()
    moments = pixel_moments(DecodedPhoto(StoredPixels(Image.fromarray(photo))))
    windows = model.normalize(whole[..., 8:16, 8:24], moments)
    assert torch.allclose(windows, model.normalize(whole)[..., 8:16, 8:24], atol=1e-5)
    assert not torch.allclose(windows, model.normalize(whole[..., 8:16, 8:24]), atol=1e-2)


@pytest.mark.parametrize("value", [0, 7, 255])
def test_an_image_of_one_color_is_no_division_by_zero(value):
    model = build_model(dataclasses.replace(ARCH, pixels="image"), (32, 48), 19, seed=0)
    assert torch.equal(model.normalize(torch.full((1, 3, 32, 48), value, dtype=torch.uint8)), torch.zeros(1, 3, 32, 48))
