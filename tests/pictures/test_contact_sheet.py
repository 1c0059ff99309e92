"""A contact sheet shows every picture, and names that can be told apart."""

from PIL import Image

from tests.pictures.colors import colors_of
from vitseg.pictures.contact_sheet import contact_sheet


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
