"""Charts: what was measured is drawn, and nothing else."""

import math

import numpy as np
import pytest

from tests.pictures.colors import colors_of
from vitseg.labels import Label, train_classes
from vitseg.pictures.charts import confusion_chart, iou_bars, learning_curves

CLASSES = train_classes()
ROAD, CAR = 0, 13
BLUE, ORANGE = (0, 114, 178), (213, 94, 0)


def test_curves_of_image_pairs_show_decibels() -> None:
    history = [{"epoch": epoch, "train/loss": 0.1, "val/psnr": 20.0 + epoch} for epoch in (1, 2, 3)]
    empty = [{"epoch": epoch, "train/loss": 0.1} for epoch in (1, 2, 3)]
    half = slice(840, None)
    with_psnr, without = (np.asarray(learning_curves(rows))[:, half] for rows in (history, empty))
    assert not np.array_equal(with_psnr, without)
    shares = [{**row, "val/miou": 0.5} for row in history]  # decibels never share an axis with shares
    np.testing.assert_array_equal(
        np.asarray(learning_curves(shares)), np.asarray(learning_curves([{**row, "val/miou": 0.5} for row in empty]))
    )


@pytest.mark.parametrize(
    ("history", "train", "validation"),
    [
        ([], False, False),
        ([{"epoch": 1, "train/loss": 2.0}], True, False),
        ([{"epoch": 1, "train/loss": math.nan, "val/loss": None, "val/miou": math.inf}], False, False),
        ([{"epoch": 1, "train/loss": 2.0}, {"epoch": 2, "train/loss": 1.0, "val/miou": 0.3}], True, True),
        ([{"step": 1, "train/loss": 2.0}], False, False),
    ],
)
def test_curves_draw_what_was_measured(history: list[dict], train: bool, validation: bool) -> None:
    image = learning_curves(history)
    colors = colors_of(image)
    assert (BLUE in colors, ORANGE in colors) == (train, validation)
    assert image.width > 1200


def test_the_line_of_a_gappy_series_goes_through() -> None:
    history = [{"epoch": epoch, "val/loss": 1.0 if epoch in (1, 9) else None} for epoch in range(1, 10)]
    pixels = (np.asarray(learning_curves(history)) == ORANGE).all(-1)
    longest = max(pixels.sum(1))  # a horizontal line from first to last point
    assert longest > 600


def test_confusion_is_dark_where_the_pixels_are() -> None:
    right = np.asarray(confusion_chart(np.diag([50, 60, 70]), CLASSES[:3])).astype(int)
    wrong = np.asarray(confusion_chart(np.fliplr(np.diag([50, 60, 70])), CLASSES[:3])).astype(int)
    assert right.shape == wrong.shape
    navy = (8, 48, 107)  # the dark end of the scale
    places = [np.argwhere((image == navy).all(-1)) for image in (right, wrong)]
    slopes = [np.corrcoef(place.T)[0, 1] for place in places]
    assert slopes[0] > 0.7
    assert slopes[1] < -0.7


def test_confusion_leaves_absent_classes_out() -> None:
    matrix = np.zeros((19, 19), np.int64)
    matrix[ROAD, CAR] = matrix[CAR, CAR] = 5
    few = confusion_chart(matrix, CLASSES)
    matrix += 1
    assert few.width < confusion_chart(matrix, CLASSES).width
    assert len(colors_of(confusion_chart(np.zeros((19, 19), np.int64), CLASSES))) > 1


def test_bars_are_as_long_as_the_iou_and_missing_ones_have_no_length() -> None:
    image = np.asarray(iou_bars([0.25, 0.75, None], CLASSES[:3]))
    lengths = [(image == label.color).all(-1).any(0).sum() for label in CLASSES[:3]]
    assert lengths[1] == pytest.approx(3 * lengths[0], rel=0.03)
    assert lengths[2] == 0


def test_odd_class_names_draw_as_plain_text() -> None:
    odd = (Label(r"$\frac{$", (9, 99, 199), 0, 0), Label("<script>&\n" + "x" * 300, (7, 77, 177), 1, 1))
    assert len(colors_of(confusion_chart(np.eye(2, dtype=np.int64), odd))) > 1
    assert (9, 99, 199) in colors_of(iou_bars([0.5, None], odd))
