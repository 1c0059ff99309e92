"""Panels, legends and contact sheets: every picture in its place, in the classes' colors."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.pictures.colors import colors_of
from vitseg.labels import Label, train_classes
from vitseg.pictures.panels import contact_sheet, legend, panel, panel_sheet
from vitseg.pictures.style import GAP, TEXT

CLASSES = train_classes()
ROAD, SKY, CAR = 0, 10, 13


def ids(*columns: int, height: int = 32, width: int = 24) -> np.ndarray:
    """Return train ids (height, width) in vertical stripes."""
    return np.repeat(np.repeat(np.array([columns], np.uint8), height, 0), width // len(columns), 1)


def test_a_panel_shows_photo_ground_truth_and_prediction_in_their_places_and_colors() -> None:
    photo = np.full((32, 24, 3), (12, 200, 34), np.uint8)
    pixels = np.asarray(panel(photo, ids(ROAD, SKY), ids(SKY, CAR), CLASSES, width=240))
    row = [tuple(pixel) for pixel in pixels[pixels.shape[0] // 2].tolist()]
    runs = [color for index, color in enumerate(row) if index == 0 or color != row[index - 1]]
    white, road, sky, car = (255, 255, 255), (128, 64, 128), (70, 130, 180), (0, 0, 142)
    assert runs == [white, (12, 200, 34), white, road, sky, white, sky, car, white]
    assert row.count(road) == 120  # half of a column, grown in whole steps to exactly 240 pixels


def test_ignored_pixels_are_black_and_hatched() -> None:
    photo = np.full((32, 24, 3), 255, np.uint8)
    sheet = panel(photo, ids(255), ids(ROAD), CLASSES, width=48)
    below_captions = sheet.crop((0, TEXT + 2 * GAP, *sheet.size))
    assert colors_of(below_captions) == {(255, 255, 255), (0, 0, 0), (96, 96, 96), (128, 64, 128)}


def test_a_panel_of_images_shows_them_as_they_are() -> None:
    photo, target, output = (np.full((40, 60, 3), value, np.uint8) for value in ((9, 9, 9), (200, 30, 5), (0, 90, 250)))
    sheet = np.asarray(panel(photo, target, output, (), width=60))
    for pixels in (photo, target, output):
        assert (sheet == pixels[0, 0]).all(-1).sum() >= 2400


def test_a_panel_without_ground_truth_has_two_columns() -> None:
    photo = np.zeros((32, 24, 3), np.uint8)
    three = panel(photo, ids(ROAD), ids(ROAD), CLASSES)
    two = panel(photo, None, ids(ROAD), CLASSES)
    assert two.width < three.width
    assert two.height == three.height


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200))
def test_panels_of_any_size_show_every_column_whole(height: int, width: int) -> None:
    photo = np.full((height, width, 3), (1, 2, 3), np.uint8)
    mask = np.full((height, width), CAR, np.uint8)
    sheet = np.asarray(panel(photo, mask, mask, CLASSES, width=100))
    photo_pixels = (sheet == (1, 2, 3)).all(-1).sum()
    assert photo_pixels > 0
    assert (sheet == CLASSES[CAR].color).all(-1).sum() == 2 * photo_pixels


def test_a_long_note_stays_inside_the_panel() -> None:
    photo = np.zeros((32, 24, 3), np.uint8)
    plain = panel(photo, None, ids(ROAD), CLASSES, note="short")
    long = panel(photo, None, ids(ROAD), CLASSES, note="very " * 500 + "\nlong")
    assert long.size == plain.size
    assert np.asarray(long)[:, -6:].min() == 255


def test_a_sheet_stacks_panels_over_the_legend() -> None:
    rows = [Image.new("RGB", (300, 40), color) for color in ("red", "lime")]
    sheet = panel_sheet(rows, title="epoch 3", classes=CLASSES, present={CAR})
    column = [tuple(pixel) for pixel in np.asarray(sheet)[:, 150].tolist()]
    assert column.index((255, 0, 0)) + 40 == column.index((0, 255, 0))
    assert CLASSES[CAR].color in colors_of(sheet)
    assert panel_sheet([]).width > 0


def test_a_legend_has_the_colors_of_the_present_classes_only() -> None:
    colors = colors_of(legend(CLASSES, {ROAD, SKY}))
    assert {CLASSES[ROAD].color, CLASSES[SKY].color} <= colors
    assert CLASSES[CAR].color not in colors
    assert {label.color for label in CLASSES} <= colors_of(legend(CLASSES))
    assert (0, 0, 0) in colors_of(legend(CLASSES, {ROAD, 255}))


def test_a_narrow_legend_wraps() -> None:
    assert legend(CLASSES, width=200).height > legend(CLASSES, width=2000).height


def test_odd_class_names_stand_in_the_legend_as_plain_text() -> None:
    odd = (Label("<script>&\n" + "x" * 300, (7, 77, 177), 0, 0),)
    assert (7, 77, 177) in colors_of(legend(odd))


def test_photographs_deep_in_folders_are_told_apart_on_a_contact_sheet() -> None:
    picture = Image.new("RGB", (200, 100), "white")
    one, two = (contact_sheet([(f"0.46  {'folder/' * 30}{name}.jpg", picture)]) for name in "ab")
    assert one.tobytes() != two.tobytes()


def test_a_contact_sheet_shows_every_picture() -> None:
    shades = [(30 * i + 1, 5, 250 - 30 * i) for i in range(7)]
    items = [(f"n{i}", Image.new("RGB", (40 + i, 20), shade)) for i, shade in enumerate(shades)]
    sheet = contact_sheet(items, columns=3, width=100)
    assert set(shades) <= colors_of(sheet)
    assert sheet.height > 3 * 40
    assert contact_sheet([]).height > 0
