import pytest

from vitseg.errors import DataError, SampleError, UsageError, VitsegError, printable


@pytest.mark.parametrize("kind", [VitsegError, UsageError, SampleError])
def test_a_message_is_one_line_that_can_be_stored(kind):
    text = str(kind("a\nb \udcff é"))
    assert text == "a\\nb \\udcff é"
    assert text.encode().decode() == text == printable(text)


def test_a_reason_within_a_reason_stays_as_it_is():
    inner = SampleError("a\\b")
    assert str(DataError(f"x: {inner}")) == "x: a\\b"


def test_no_control_character_reaches_a_terminal():
    assert printable("a\r\x1b[2J\x85\t\x7f\u2028é\\") == "a\\r\\x1b[2J\\x85\\t\\x7f\\u2028é\\"
