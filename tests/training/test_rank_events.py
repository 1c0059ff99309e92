"""What ranks say is heard, and nothing else is taken for it."""

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vitseg.training.rank_events import heard, say

VALUES = st.dictionaries(
    st.text(min_size=1).filter(lambda name: name != "event"),
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.lists(st.integers()),
    max_size=4,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(), VALUES)
def test_what_is_said_is_heard(capsys: pytest.CaptureFixture[str], event: str, values: dict[str, object]) -> None:
    say(event, **values)
    written = capsys.readouterr().out
    assert written.count("\n") == 1
    assert written.endswith("\n")
    assert written.isascii()  # a rank's terminal may be in any encoding
    assert heard(written) == {"event": event, **values}


def test_a_loss_that_is_no_number_is_heard(capsys: pytest.CaptureFixture[str]) -> None:
    say("step", loss=math.nan)
    event = heard(capsys.readouterr().out)
    assert event is not None
    assert math.isnan(event["loss"])


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Epoch 3 of 5",
        '{"loss": 1, "event": "step"}',
        ' {"event": "step"}',
        '{"event": "step", "loss": 0.{"event": "step"',
        '{"event": "step"} {"event": "step"}',
        '{"event": ',
    ],
)
def test_other_lines_are_text(line: str) -> None:
    assert heard(line) is None
