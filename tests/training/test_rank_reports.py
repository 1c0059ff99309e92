"""Events of ranks are recognized, and nothing else is taken for one."""

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vitseg.training.rank_reports import emit, parse_event

VALUES = st.dictionaries(
    st.text(min_size=1).filter(lambda name: name != "event"),
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.lists(st.integers()),
    max_size=4,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(), VALUES)
def test_events_come_back_as_they_were_emitted(
    capsys: pytest.CaptureFixture[str], event: str, values: dict[str, object]
) -> None:
    emit(event, **values)
    written = capsys.readouterr().out
    assert written.count("\n") == 1
    assert written.endswith("\n")
    assert written.isascii()  # a rank's terminal may be in any encoding
    assert parse_event(written) == {"event": event, **values}


def test_a_loss_that_is_not_a_number_comes_back(capsys: pytest.CaptureFixture[str]) -> None:
    emit("step", loss=math.nan)
    event = parse_event(capsys.readouterr().out)
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
    assert parse_event(line) is None
