import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vitseg.errors import DataError
from vitseg.inference import predict
from vitseg.inference.predict import paint_resized, paint_tiled, predict_resized, predict_tiled, upsampled_strips


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(1, 400),
)
def test_strips_are_the_bilinear_interpolation_of_the_whole(given_size, size, strip_floats):
    scores = torch.randn(3, *given_size, generator=torch.Generator().manual_seed(0))
    whole = F.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "_STRIP_FLOATS", strip_floats)
        strips = list(upsampled_strips(scores, size))
    assert max(strip.shape[1] for strip in strips) <= max(1, strip_floats // (3 * size[1]))
    torch.testing.assert_close(torch.cat(strips, 1), whole)


def test_classes_and_confidence():
    scores = torch.zeros(2, 2, 2)
    scores[1, :, 1] = 100.0
    prediction = predict_resized(scores, (4, 6))
    assert prediction.ids.dtype == np.uint8
    assert prediction.ids.tolist() == [[0, 0, 1, 1, 1, 1]] * 4 or prediction.ids.shape == (4, 6)
    assert prediction.ids[:, 0].tolist() == [0] * 4
    assert prediction.ids[:, -1].tolist() == [1] * 4
    assert prediction.mean_confidence == pytest.approx(0.75)  # half undecided between two, half certain


def test_scores_that_are_not_numbers_are_an_error():
    scores = torch.full((2, 3, 3), float("nan"))
    with pytest.raises(DataError, match="not numbers"):
        _ = predict_resized(scores, (5, 5)).mean_confidence


@settings(deadline=None, max_examples=12)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 4), st.integers(0, 99))
def test_tiles_of_a_pixelwise_model_give_its_answer_at_every_pixel(height, width, batch_size, seed):
    # Channels in 0, 50 … 250 keep the best class clear of rounding.
    photo = (np.random.default_rng(seed).integers(0, 6, (height, width, 3)) * 50).astype(np.uint8)
    seen = []

    def model(images):
        seen.append(images.shape)
        return images.float() / 100 + torch.tensor([0.03, 0.02, 0.01])[:, None, None]

    prediction = predict_tiled(model, photo, (8, 12), batch_size)
    assert prediction.ids.shape == prediction.confidence.shape == (height, width)
    assert np.array_equal(prediction.ids, photo.argmax(2))
    scores = model(torch.from_numpy(photo).permute(2, 0, 1)).softmax(0)
    np.testing.assert_allclose(prediction.confidence, scores.amax(0), atol=1e-4)
    seen.pop()
    assert {shape[1:] for shape in seen} == {(3, 8, 12)}
    assert max(shape[0] for shape in seen) <= batch_size


def test_tiles_cover_the_image_at_its_own_scale():
    photo = np.zeros((30, 50, 3), np.uint8)
    photo[17, 41, 2] = 255  # a single pixel, lost if the image were shrunk

    prediction = predict_tiled(lambda images: images.float(), photo, (8, 12), 4)
    assert np.argwhere(prediction.ids == 2).tolist() == [[17, 41]]


def test_colours_are_rounded_to_bytes_and_scaled():
    colors = torch.tensor([0.0, 0.5, 1.2])[:, None, None].expand(3, 4, 6)
    painting = paint_resized(colors, (9, 5))
    assert painting.colors.dtype == np.uint8
    assert painting.colors.shape == (9, 5, 3)
    assert (painting.colors == (0, 128, 255)).all()
    ramp = torch.linspace(0, 1, 8).expand(3, 4, 8)
    assert (np.diff(paint_resized(ramp, (4, 80)).colors[0, :, 0].astype(int)) >= 0).all()


@settings(deadline=None, max_examples=12)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 4))
def test_tiles_of_a_model_that_repeats_its_input_give_the_photograph(height, width, batch_size):
    photo = np.random.default_rng(height * 41 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    painting = paint_tiled(lambda images: images.float() / 255, photo, (8, 12), batch_size)
    assert painting.colors.shape == photo.shape
    np.testing.assert_array_equal(painting.colors, photo)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_colours_that_are_not_numbers_are_an_error(value):
    with pytest.raises(DataError, match="not numbers"):
        paint_resized(torch.full((3, 4, 4), value), (4, 4))
