"""What the loop's clocks measure."""

import time

import pytest

from vitseg.training import progress
from vitseg.training.progress import BatchClock, TimeBudget


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace the time by a number that a test moves on."""
    clock = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    return clock


def test_speed_and_wait_are_those_of_the_last_while(now: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_RECENT_SECONDS", 10.0)

    def batches(waits: list[float]):
        for wait in waits:
            now[0] += wait
            yield None

    clock = BatchClock()
    for number, _ in enumerate(clock.watch(batches([1.0] * 20))):
        now[0] += 9.0 if number < 10 else 3.0
    assert clock.rate == pytest.approx(0.25)
    assert clock.data_wait == pytest.approx(0.25)


def test_a_budget_counts_the_time_of_earlier_attempts(now: list[float]) -> None:
    budget = TimeBudget(2.0)
    now[0] += 30
    assert budget.share(budget.seconds) == pytest.approx(0.25)
    budget.seconds = 60.0
    now[0] += 30
    assert budget.seconds == pytest.approx(90)
    assert budget.share(budget.seconds) == pytest.approx(0.75)
    assert TimeBudget(None).share(1e9) == 0
