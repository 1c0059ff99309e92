"""The state of a training: time left, the best epoch, and how much was computed."""

from collections.abc import Callable
from typing import Any

import pytest

from flows.display import training_state as module
from flows.display.training_state import TrainingState

Tick = Callable[[float], None]


@pytest.fixture
def tick(monkeypatch: pytest.MonkeyPatch) -> Tick:
    """Return a function that lets seconds pass."""
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])

    def later(seconds: float) -> None:
        now[0] += seconds

    return later


def step(number: int, **values: float) -> dict[str, Any]:
    speed = {"learning_rate": 0.004, "images_per_second": 12.34, "data_wait": 0.012}
    return {"event": "step", "step": number, "loss": 1.5, **speed, **values}


def epoch(number: int, last_step: int, **values: float) -> dict[str, Any]:
    row = {f"val/{name}": value for name, value in values.items()}
    return {"event": "epoch", "epoch": number, "step": last_step, "train/loss": 1.4, **row}


def test_the_time_left_follows_the_recent_speed_and_runs_down(tick: Tick) -> None:
    training = TrainingState(epochs=10, per_epoch=100, measure="val/miou")
    training.on_event({"event": "start", "step": 0, "history": []})
    assert training.seconds_left is None
    for number in range(10, 210, 10):  # slow ones, then fast ones
        tick(100)
        training.on_event(step(number))
    assert training.seconds_left == pytest.approx(10 * 800)
    for number in range(210, 510, 10):
        tick(10)
        training.on_event(step(number))
    assert training.seconds_left == pytest.approx(500)
    tick(30)
    assert training.seconds_left == pytest.approx(470)
    tick(3600)  # something hangs
    assert training.seconds_left == 0
    assert training.time_left_text() == "0:00:00 left"


def test_steps_of_an_earlier_attempt_are_done_but_do_not_count_for_the_speed(tick: Tick) -> None:
    training = TrainingState(epochs=10, per_epoch=100, measure="val/miou")
    earlier = [{"epoch": 1, "step": 100, "train/loss": 2.0, "val/miou": 0.5}]
    tick(15)  # processes start
    training.on_event({"event": "start", "step": 190, "history": earlier})
    tick(10)
    training.on_event(step(200))
    assert training.seconds_left == pytest.approx(800)
    assert training.status_line() == (
        "epoch 2/10, step 200/1000, loss 1.500, 12.3 images/s, data wait 1%, best mIoU 0.500 (epoch 1), 0:13:20 left"
    )


def test_a_time_limit_ends_training_before_the_last_step(tick: Tick) -> None:
    training = TrainingState(epochs=10, per_epoch=100, measure="val/miou", minutes=10)
    training.on_event({"event": "start", "step": 0, "history": []})
    tick(10)
    training.on_event(step(10, time_used=0.75))
    assert training.seconds_left == pytest.approx(150)


def test_a_validation_is_part_of_the_time_left_wherever_in_an_epoch(tick: Tick) -> None:
    training = TrainingState(epochs=3, per_epoch=100, measure="val/miou")
    training.on_event({"event": "start", "step": 0, "history": []})
    found = []
    for number in range(10, 301, 10):
        tick(10)
        training.on_event(step(number))
        if number == 100:
            tick(100)
            training.on_event(epoch(1, number, miou=0.1))
        if 100 < number < 200:
            found.append(training.seconds_left / (300 - number) if training.seconds_left else 0)
    assert max(found) == pytest.approx(min(found))  # not an hour more just after it
    assert min(found) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("measure", "values", "text"),
    [
        ("val/miou", [0.1, 0.3, 0.2], "best mIoU 0.300 (epoch 2)"),
        ("val/psnr", [20.0, 21.0, 24.123], "best PSNR 24.12 dB (epoch 3)"),
        ("val/loss", [0.5, 0.7, 0.6], "best loss 0.500 (epoch 1)"),
    ],
)
def test_the_best_epoch_is_the_highest_or_of_least_loss(measure: str, values: list[float], text: str) -> None:
    training = TrainingState(epochs=4, per_epoch=10, measure=measure)
    assert training.best_text() == ""
    for number, value in enumerate(values, start=1):
        training.on_event(epoch(number, 10 * number, **{measure.removeprefix("val/"): value}))
    training.on_event({"event": "epoch", "epoch": 4, "step": 40, "train/loss": 0.1})  # not validated
    assert training.best_text() == text


def test_the_speed_stands_with_what_it_is_a_share_of() -> None:
    training = TrainingState(epochs=1, per_epoch=30, measure="val/miou")
    training.on_event({"event": "start", "step": 0, "history": [], "matrix_tflops": 0.196})
    for number, images in ((10, 1.0), (20, 2.0), (30, 2.1)):  # the first steps are slow
        training.on_event(
            step(number, images_per_second=images, tflops=0.0253 * images, flops_utilization=0.129 * images)
        )
    assert training.speed_text() == ("2.0 images/s: 50.6 GFLOP/s, 26% of what matrix products reach here (196 GFLOP/s)")
