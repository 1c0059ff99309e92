"""Text that is too long for its place is shortened."""

from vitseg.pictures.style import fit_text, load_font


def test_of_a_long_key_the_name_of_the_file_stays() -> None:
    font = load_font(15)
    clipped = fit_text("0.46  " + "very-long-folder/" * 9 + "last.jpg", font, 200, 5)
    assert clipped.startswith("0.46 …")
    assert clipped.endswith("/last.jpg")
    assert font.getlength(clipped) <= 200
    assert fit_text("0.46  short.jpg", font, 200, 5) == "0.46 short.jpg"
