"""Tables, lists and durations as pages show them."""

import pytest

from vitseg.registry.markdown import duration, listed, table_head, table_row


def test_a_long_list_is_cut_and_counted() -> None:
    assert listed(["road", "car"]) == "road, car"
    assert listed([str(number) for number in range(23)]).endswith("18, 19 and 3 more")


def test_no_text_breaks_a_row_of_a_table() -> None:
    assert table_row(["a|b", "c\nd", ""]) == "| a/b&ensp; | c d&ensp; |  |"
    assert table_head(["", "x"]) == ["|  | x&ensp; |", "|---|---|"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.7, "1 min 00 s"),
        (125.2, "2 min 05 s"),
        (3780, "1 h 03 min"),
    ],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text
