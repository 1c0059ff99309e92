import tracemalloc

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vitseg.errors import DataError
from vitseg.inference import upsample
from vitseg.inference.upsample import best_upsampled, upsample_colors, upsample_scores


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
        torch.testing.assert_close(torch.stack(list(upsample.upsampled_rows(scores, size, part))), whole[:, part])


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.integers(2, 5),
    st.sampled_from([-1.0, 0.5, 1.0]),
    st.integers(1, 400),
    st.sampled_from([5, 10**6]),
    st.integers(0, 99),
)
def test_the_best_class_is_that_of_the_interpolated_scores(given_size, size, classes, many, at_once, wide, seed):
    # Whichever way it is found: in cells whose corners differ (1), everywhere (-1), or as shares have it.
    scores = torch.randn(classes, *given_size, generator=torch.Generator().manual_seed(seed))
    scores = F.avg_pool2d(scores[None], 3, 1, 1)[0] if seed % 2 else scores
    whole = F.interpolate(scores[None].double(), size=size, mode="bilinear", align_corners=False)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upsample, "_MANY", many)
        patch.setattr(upsample, "_AT_ONCE", at_once)
        patch.setattr(upsample, "_WIDE", wide)
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


@pytest.mark.parametrize("size", [(1, 3_000_000), (3_000_000, 1), (2_000_000, 3)])
@pytest.mark.parametrize("noisy", [False, True])
def test_long_strips_take_little_more_memory_than_their_mask(size, noisy):
    scores = torch.randn(5, 64, 64, generator=torch.Generator().manual_seed(0))
    scores = scores if noisy else F.avg_pool2d(scores[None], 9, 1, 4)[0]
    tracemalloc.start()
    ids = best_upsampled(scores, size)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert ids.shape == size
    assert (
        peak < 40 * ids.size
    )  # of one side's table, 8 bytes a pixel, several times; by the wrong order it was over 60


def test_classes_and_confidence():
    scores = torch.zeros(2, 2, 2)
    scores[1, :, 1] = 100.0
    prediction = upsample_scores(scores, (4, 6))
    assert prediction.ids.dtype == np.uint8
    assert prediction.ids.tolist() == [[0, 0, 1, 1, 1, 1]] * 4 or prediction.ids.shape == (4, 6)
    assert prediction.ids[:, 0].tolist() == [0] * 4
    assert prediction.ids[:, -1].tolist() == [1] * 4
    assert prediction.mean_confidence == pytest.approx(0.75)  # half undecided between two, half certain


def test_scores_that_are_not_numbers_are_an_error():
    scores = torch.full((2, 3, 3), float("nan"))
    with pytest.raises(DataError, match="not numbers"):
        upsample_scores(scores, (5, 5))


def test_colors_are_rounded_to_bytes_and_scaled():
    colors = torch.tensor([0.0, 0.5, 1.2])[:, None, None].expand(3, 4, 6)
    image = upsample_colors(colors, (9, 5))
    assert image.colors.dtype == np.uint8
    assert image.colors.shape == (9, 5, 3)
    assert (image.colors == (0, 128, 255)).all()
    ramp = torch.linspace(0, 1, 8).expand(3, 4, 8)
    assert (np.diff(upsample_colors(ramp, (4, 80)).colors[0, :, 0].astype(int)) >= 0).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_colors_that_are_not_numbers_are_an_error(value):
    with pytest.raises(DataError, match="not numbers"):
        upsample_colors(torch.full((3, 4, 4), value), (4, 4))
