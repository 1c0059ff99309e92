import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vitseg import pictures
from vitseg.labels import Label, train_classes

CLASSES = train_classes()
ROAD, SKY, CAR = 0, 10, 13


def colors_of(image: Image.Image) -> set[tuple[int, int, int]]:
    return {color for _, color in image.getcolors(image.width * image.height)}


def is_blank(image: Image.Image) -> bool:
    return len(colors_of(image)) == 1


def ids(*columns: int, height: int = 32, width: int = 24) -> np.ndarray:
    """Vertical stripes of the given ids."""
    return np.repeat(np.repeat(np.array([columns], np.uint8), height, 0), width // len(columns), 1)


def test_a_panel_shows_photo_truth_and_prediction_in_their_places_and_colors() -> None:
    photo = np.full((32, 24, 3), (12, 200, 34), np.uint8)
    panel = np.asarray(pictures.panel(photo, ids(ROAD, SKY), ids(SKY, CAR), CLASSES, width=240))
    row = [tuple(pixel) for pixel in panel[panel.shape[0] // 2].tolist()]
    runs = [color for index, color in enumerate(row) if index == 0 or color != row[index - 1]]
    white, road, sky, car = (255, 255, 255), (128, 64, 128), (70, 130, 180), (0, 0, 142)
    assert runs == [white, (12, 200, 34), white, road, sky, white, sky, car, white]
    assert row.count(road) == 120  # half of a column, grown in whole steps to exactly 240 pixels


def test_ignored_pixels_are_black_and_hatched() -> None:
    photo = np.full((32, 24, 3), 255, np.uint8)
    panel = pictures.panel(photo, ids(255), ids(ROAD), CLASSES, titles=("", "", ""), width=48)
    assert colors_of(panel) == {(255, 255, 255), (0, 0, 0), (96, 96, 96), (128, 64, 128)}


def test_a_panel_of_images_shows_them_as_they_are() -> None:
    photo, target, output = (np.full((40, 60, 3), value, np.uint8) for value in ((9, 9, 9), (200, 30, 5), (0, 90, 250)))
    sheet = np.asarray(pictures.panel(photo, target, output, (), width=60))
    for pixels in (photo, target, output):
        assert (sheet == pixels[0, 0]).all(-1).sum() >= 2400
    titled = pictures.panel(photo, target, output, (), width=60, titles=("photo", "target", "output"))
    np.testing.assert_array_equal(np.asarray(titled), sheet)


def test_curves_of_image_pairs_show_decibels() -> None:
    history = [{"epoch": epoch, "train/loss": 0.1, "val/psnr": 20.0 + epoch} for epoch in (1, 2, 3)]
    empty = [{"epoch": epoch, "train/loss": 0.1} for epoch in (1, 2, 3)]
    half = slice(840, None)
    with_psnr, without = (np.asarray(pictures.curves(rows))[:, half] for rows in (history, empty))
    assert not np.array_equal(with_psnr, without)
    shares = [{**row, "val/miou": 0.5} for row in history]  # decibels never share an axis with shares
    np.testing.assert_array_equal(
        np.asarray(pictures.curves(shares)), np.asarray(pictures.curves([{**row, "val/miou": 0.5} for row in empty]))
    )


def test_a_panel_without_truth_has_two_columns() -> None:
    photo = np.zeros((32, 24, 3), np.uint8)
    three = pictures.panel(photo, ids(ROAD), ids(ROAD), CLASSES)
    two = pictures.panel(photo, None, ids(ROAD), CLASSES)
    assert two.width < three.width
    assert two.height == three.height


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200))
def test_panels_of_any_size_show_every_column_whole(height: int, width: int) -> None:
    photo = np.full((height, width, 3), (1, 2, 3), np.uint8)
    mask = np.full((height, width), CAR, np.uint8)
    panel = np.asarray(pictures.panel(photo, mask, mask, CLASSES, titles=("", "", ""), width=100))
    photo_pixels = (panel == (1, 2, 3)).all(-1).sum()
    assert photo_pixels > 0
    assert (panel == CLASSES[CAR].color).all(-1).sum() == 2 * photo_pixels


def test_a_long_note_stays_inside_the_panel() -> None:
    photo = np.zeros((32, 24, 3), np.uint8)
    plain = pictures.panel(photo, None, ids(ROAD), CLASSES, note="short")
    long = pictures.panel(photo, None, ids(ROAD), CLASSES, note="very " * 500 + "\nlong")
    assert long.size == plain.size
    assert np.asarray(long)[:, -6:].min() == 255


def test_a_sheet_stacks_panels_over_the_legend() -> None:
    rows = [Image.new("RGB", (300, 40), color) for color in ("red", "lime")]
    sheet = pictures.panel_sheet(rows, title="epoch 3", classes=CLASSES, present={CAR})
    column = [tuple(pixel) for pixel in np.asarray(sheet)[:, 150].tolist()]
    assert column.index((255, 0, 0)) + 40 == column.index((0, 255, 0))
    assert CLASSES[CAR].color in colors_of(sheet)
    assert pictures.panel_sheet([]).width > 0


def test_a_legend_has_the_colors_of_the_present_classes_only() -> None:
    colors = colors_of(pictures.legend(CLASSES, {ROAD, SKY}))
    assert {CLASSES[ROAD].color, CLASSES[SKY].color} <= colors
    assert CLASSES[CAR].color not in colors
    assert {label.color for label in CLASSES} <= colors_of(pictures.legend(CLASSES))
    assert (0, 0, 0) in colors_of(pictures.legend(CLASSES, {ROAD, 255}))


def test_a_narrow_legend_wraps() -> None:
    assert pictures.legend(CLASSES, width=200).height > pictures.legend(CLASSES, width=2000).height


BLUE, ORANGE = (0, 114, 178), (213, 94, 0)


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
    image = pictures.curves(history)
    colors = colors_of(image)
    assert (BLUE in colors, ORANGE in colors) == (train, validation)
    assert image.width > 1200


def test_the_line_of_a_gappy_series_goes_through() -> None:
    history = [{"epoch": epoch, "val/loss": 1.0 if epoch in (1, 9) else None} for epoch in range(1, 10)]
    pixels = (np.asarray(pictures.curves(history)) == ORANGE).all(-1)
    longest = max(pixels.sum(1))  # a horizontal line from first to last point
    assert longest > 600


def test_confusion_is_dark_where_the_pixels_are() -> None:
    right = np.asarray(pictures.confusion(np.diag([50, 60, 70]), CLASSES[:3])).astype(int)
    wrong = np.asarray(pictures.confusion(np.fliplr(np.diag([50, 60, 70])), CLASSES[:3])).astype(int)
    assert right.shape == wrong.shape
    navy = (8, 48, 107)  # the dark end of the scale
    places = [np.argwhere((image == navy).all(-1)) for image in (right, wrong)]
    slopes = [np.corrcoef(place.T)[0, 1] for place in places]
    assert slopes[0] > 0.7
    assert slopes[1] < -0.7


def test_confusion_leaves_absent_classes_out() -> None:
    matrix = np.zeros((19, 19), np.int64)
    matrix[ROAD, CAR] = matrix[CAR, CAR] = 5
    few = pictures.confusion(matrix, CLASSES)
    matrix += 1
    assert few.width < pictures.confusion(matrix, CLASSES).width
    assert not is_blank(pictures.confusion(np.zeros((19, 19), np.int64), CLASSES))


def test_bars_are_as_long_as_the_iou_and_missing_ones_have_no_length() -> None:
    image = np.asarray(pictures.iou_bars([0.25, 0.75, None], CLASSES[:3]))
    lengths = [(image == label.color).all(-1).any(0).sum() for label in CLASSES[:3]]
    assert lengths[1] == pytest.approx(3 * lengths[0], rel=0.03)
    assert lengths[2] == 0


def test_odd_class_names_draw_as_plain_text() -> None:
    odd = (Label(r"$\frac{$", (9, 99, 199), 0, 0), Label("<script>&\n" + "x" * 300, (7, 77, 177), 1, 1))
    assert not is_blank(pictures.confusion(np.eye(2, dtype=np.int64), odd))
    assert (9, 99, 199) in colors_of(pictures.iou_bars([0.5, None], odd))
    assert (7, 77, 177) in colors_of(pictures.legend(odd))


def test_of_a_long_key_the_name_of_the_file_stays() -> None:
    font = pictures._font(15)
    clipped = pictures._clip("0.46  " + "very-long-folder/" * 9 + "last.jpg", font, 200, 5)
    assert clipped.startswith("0.46 …")
    assert clipped.endswith("/last.jpg")
    assert font.getlength(clipped) <= 200
    assert pictures._clip("0.46  short.jpg", font, 200, 5) == "0.46 short.jpg"


def test_photographs_deep_in_folders_are_told_apart_on_a_contact_sheet() -> None:
    picture = Image.new("RGB", (200, 100), "white")
    one, two = (pictures.contact_sheet([(f"0.46  {'folder/' * 30}{name}.jpg", picture)]) for name in "ab")
    assert one.tobytes() != two.tobytes()


def test_a_contact_sheet_shows_every_picture() -> None:
    shades = [(30 * i + 1, 5, 250 - 30 * i) for i in range(7)]
    items = [(f"n{i}", Image.new("RGB", (40 + i, 20), shade)) for i, shade in enumerate(shades)]
    sheet = pictures.contact_sheet(items, columns=3, width=100)
    assert set(shades) <= colors_of(sheet)
    assert sheet.height > 3 * 40
    assert pictures.contact_sheet([]).height > 0
