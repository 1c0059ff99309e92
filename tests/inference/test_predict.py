import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vitseg.errors import DataError
from vitseg.inference import predict
from vitseg.inference.predict import best_upsampled, paint_resized, predict_resized


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(1, 40),
)
def test_strips_are_the_bilinear_interpolation_of_the_whole(given_size, size, rows):
    scores = torch.randn(3, *given_size, generator=torch.Generator().manual_seed(0))
    whole = F.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0]
    for top in range(0, size[0], rows):
        part = slice(top, min(top + rows, size[0]))
        torch.testing.assert_close(torch.stack(list(predict._upsampled(scores, size, part))), whole[:, part])


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.integers(2, 5),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.integers(1, 400),
    st.integers(0, 99),
)
def test_the_best_class_is_that_of_the_interpolated_scores(given_size, size, classes, few, strip, seed):
    # Whichever way it is found: where neighbours differ alone (few = 1), everywhere (0), or as shares have it.
    scores = torch.randn(classes, *given_size, generator=torch.Generator().manual_seed(seed))
    scores = F.avg_pool2d(scores[None], 3, 1, 1)[0] if seed % 2 else scores
    whole = F.interpolate(scores[None].double(), size=size, mode="bilinear", align_corners=False)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "_FEW", few)
        patch.setattr(predict, "_STRIP_FLOATS", strip)
        patch.setattr(predict, "_STRIP_PIXELS", strip)
        ids = best_upsampled(scores, size)
    first, second = whole.topk(2, 0).values
    clear = (first - second > 1e-5).numpy()  # where two are equal but for rounding, either is right
    assert ids.shape == size
    assert ids.dtype == np.uint8
    np.testing.assert_array_equal(ids[clear], whole.argmax(0).numpy()[clear])


def test_of_equal_scores_the_first_class_is_best():
    scores = torch.zeros(3, 4, 4)
    assert (best_upsampled(scores, (9, 7)) == 0).all()
    scores[2] = 1.0
    scores[1] = 1.0
    assert (best_upsampled(scores, (9, 7)) == 1).all()


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
        predict_resized(scores, (5, 5))


def test_colours_are_rounded_to_bytes_and_scaled():
    colors = torch.tensor([0.0, 0.5, 1.2])[:, None, None].expand(3, 4, 6)
    painting = paint_resized(colors, (9, 5))
    assert painting.colors.dtype == np.uint8
    assert painting.colors.shape == (9, 5, 3)
    assert (painting.colors == (0, 128, 255)).all()
    ramp = torch.linspace(0, 1, 8).expand(3, 4, 8)
    assert (np.diff(paint_resized(ramp, (4, 80)).colors[0, :, 0].astype(int)) >= 0).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_colours_that_are_not_numbers_are_an_error(value):
    with pytest.raises(DataError, match="not numbers"):
        paint_resized(torch.full((3, 4, 4), value), (4, 4))
