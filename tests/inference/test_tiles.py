import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vitseg.errors import DataError
from vitseg.images.decode import StoredPixels
from vitseg.images.rows import DecodedPhoto
from vitseg.inference import tiles
from vitseg.inference.tiles import predict_colors_tiled, predict_tiled


def photo_of(pixels: np.ndarray) -> DecodedPhoto:
    return DecodedPhoto(StoredPixels(Image.fromarray(pixels)))


@settings(deadline=None, max_examples=12)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 4), st.integers(0, 99))
def test_tiles_of_a_pixelwise_model_give_its_class_at_every_pixel(height, width, batch_size, seed):
    # Channels in 0, 50 … 250 keep the best class clear of rounding.
    photo = (np.random.default_rng(seed).integers(0, 6, (height, width, 3)) * 50).astype(np.uint8)
    seen = []

    def model(images):
        seen.append(images.shape)
        return images.float() / 100 + torch.tensor([0.03, 0.02, 0.01])[:, None, None]

    prediction = predict_tiled(model, photo_of(photo), (8, 12), batch_size, keep_confidence=True)
    assert prediction.ids.shape == prediction.confidence.shape == (height, width)
    assert np.array_equal(prediction.ids, photo.argmax(2))
    scores = model(torch.from_numpy(photo).permute(2, 0, 1)).softmax(0)
    np.testing.assert_allclose(prediction.confidence / 255, scores.amax(0), atol=0.5 / 255 + 1e-4)
    assert prediction.mean_confidence == pytest.approx(float(scores.amax(0).mean()), abs=1e-4)
    seen.pop()
    assert {shape[1:] for shape in seen} == {(3, 8, 12)}
    assert max(shape[0] for shape in seen) <= batch_size


def test_tiles_cover_the_image_at_its_own_scale():
    photo = np.zeros((30, 50, 3), np.uint8)
    photo[17, 41, 2] = 255  # a single pixel, lost if the image were shrunk

    prediction = predict_tiled(lambda images: images.float(), photo_of(photo), (8, 12), 4)
    assert prediction.confidence is None  # not kept by default
    assert np.argwhere(prediction.ids == 2).tolist() == [[17, 41]]


@settings(deadline=None, max_examples=12)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 4))
def test_tiles_of_a_model_that_repeats_its_input_give_the_photograph(height, width, batch_size):
    photo = np.random.default_rng(height * 41 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = predict_colors_tiled(lambda images: images.float() / 255, photo_of(photo), (8, 12), batch_size)
    assert image.colors.shape == photo.shape
    np.testing.assert_array_equal(image.colors, photo)


def test_scores_that_are_not_numbers_are_an_error():
    photo = photo_of(np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(DataError, match="not numbers"):
        predict_tiled(lambda images: images.float() * float("nan"), photo, (8, 12), 4)
    with pytest.raises(DataError, match="not numbers"):
        predict_colors_tiled(lambda images: images.float() * float("inf"), photo, (8, 12), 4)


def test_borders_of_windows_are_blended():
    # A model that alternates from window to window: neighbors disagree, and yet the blend is smooth.
    asked = []

    def model(images):
        scores = torch.zeros(len(images), 2, 8, 8)
        for each in scores:
            each[1] = len(asked) % 2
            asked.append(1)
        return scores

    prediction = predict_tiled(model, photo_of(np.zeros((8, 40, 3), np.uint8)), (8, 8), 3, keep_confidence=True)
    steps = np.abs(np.diff(prediction.confidence[0].astype(int)))
    assert steps.max() <= 20  # unblended, the probability would jump by 59 from one window to the next
    assert len(asked) == 9


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 30), st.integers(1, 120), st.integers(1, 50), st.integers(1, 4))
def test_stripes_change_nothing(height, width, stripe, batch_size):
    photo = np.random.default_rng(height * 121 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    slope = torch.linspace(0, 3, 12)  # a model with another output at each place of its window

    def model(images):
        return images.float() / 50 + torch.stack([slope.expand(8, 12), slope.flip(0).expand(8, 12), torch.ones(8, 12)])

    with pytest.MonkeyPatch.context() as patch:
        whole = predict_tiled(model, photo_of(photo), (8, 12), batch_size, keep_confidence=True)
        patch.setattr(tiles, "_STRIPE", stripe)
        patch.setattr(tiles, "_BLOCK", 7)
        parts = predict_tiled(model, photo_of(photo), (8, 12), batch_size, keep_confidence=True)
    assert (whole.ids == parts.ids).mean() > 0.999  # but for rounding, where two classes are equal
    assert np.abs(whole.confidence.astype(int) - parts.confidence).max() <= 1
    assert whole.mean_confidence == pytest.approx(parts.mean_confidence, abs=1e-5)
