"""A training on a terminal and elsewhere, and on its page in Prefect, which may be away."""

import io
import threading
import time
from types import SimpleNamespace

import httpx
import pytest
from rich.console import Console

from flows.display import console as notes
from flows.display import training_table
from flows.display.training_table import show_training
from tests.flows.display.test_training_state import epoch, step

NAME = "a41d9b82-610180a1ba7c"
START = {"event": "start", "step": 0, "history": [], "matrix_tflops": 0.2}


@pytest.fixture
def screen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Console:
    """Put a terminal of so many columns, or a file (0), in place of standard error."""
    columns = getattr(request, "param", 80)
    console = Console(
        file=io.StringIO(),
        force_terminal=bool(columns),
        width=columns or 80,
        height=24,
        soft_wrap=True,
        highlight=False,
    )
    monkeypatch.setattr(notes, "console", console)
    monkeypatch.setattr(training_table, "console", console)
    return console


def frame(show: training_table._LiveTable, screen: Console) -> list[str]:
    console = Console(file=io.StringIO(), width=screen.width, height=24, soft_wrap=True)
    console.print(show._frame())
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("screen", [80, 40, 24], indirect=True)
@pytest.mark.parametrize(("epochs", "per_epoch"), [(8, 10), (300, 4000)])
def test_the_table_holds_all_facts_and_keeps_to_the_terminal(screen: Console, epochs: int, per_epoch: int) -> None:
    state = training_table.TrainingState(epochs, per_epoch, "val/miou")
    show = training_table._LiveTable(state)
    assert len(frame(show, screen)) < 10
    state.on_event(START)
    for number in range(1, 8):
        state.on_event(step(number * per_epoch, pixel_accuracy=0.75))
        state.on_event({**epoch(number, number * per_epoch, miou=0.1 * number, loss=0.9), "train/pixel_accuracy": 0.7})
    state.on_event(step(7 * per_epoch + 5, pixel_accuracy=0.8, tflops=0.0123, flops_utilization=0.06))
    lines = frame(show, screen)
    assert max(map(len, lines)) <= screen.width
    assert len(lines) <= 12
    if screen.width >= 40:
        assert "loss" in lines[0]
        assert "val mIoU" in lines[0]
    if screen.width == 80:
        assert lines[0].split() == [
            "epoch",
            "step",
            "loss",
            "accuracy",
            "val",
            "loss",
            "val",
            "mIoU",
            "images/s",
            "data",
            "wait",
        ]
        assert lines[-5].split() == [
            f"7/{epochs}",
            str(7 * per_epoch),
            "1.400",
            "0.700",
            "0.900",
            "0.700",
            "12.3",
            "1%",
        ]
        running = [f"8/{epochs}", str(7 * per_epoch + 5), "1.500", "0.800", "12.3", "1%"]
        assert lines[-4].split() == running
        assert f"{7 * per_epoch + 5}/{epochs * per_epoch}" in lines[-2]
        assert "left" in lines[-2]
        assert lines[-1].split(" · ")[-1] == "12.3 GFLOP/s, 6% of peak"
        assert "best mIoU 0.700 (epoch 7)" in lines[-1]


def test_rows_stay_and_notes_stand_above(screen: Console) -> None:
    with show_training(NAME, 2, 10, "val/psnr") as on_event:
        on_event({**START, "history": [epoch(1, 10, loss=0.5, psnr=20.0)], "step": 10})
        on_event(step(20, tflops=0.1, flops_utilization=0.5))
        notes.note("something else")
        on_event(epoch(2, 20, loss=0.4, psnr=22.345))
    shown = screen.file.getvalue().split("something else")[1]
    left = shown.rpartition("\x1b[2K")[2]  # after the live part was wiped for the last time
    assert "22.34 dB" in left
    assert "1/2" not in left  # an earlier start's rows stand where that start left them
    assert "epoch 2/2: train" not in left
    assert "trained 12.3 images/s: 100 GFLOP/s, 50% of what matrix products reach here" in left


@pytest.mark.parametrize("screen", [0], indirect=True)
def test_elsewhere_it_is_a_plain_line_now_and_then_and_one_an_epoch(
    screen: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([0.0, 1.0, 6.0, 6.0, 8.0])
    monkeypatch.setattr(training_table, "time", SimpleNamespace(monotonic=lambda: next(now)))
    with show_training(NAME, 1, 30, "val/miou") as on_event:
        on_event(START)
        on_event({"event": "something new"})
        for number in (10, 20, 30):
            on_event(step(number))
        on_event({**epoch(1, 30, loss=0.9, miou=0.25), "train/pixel_accuracy": 0.7})
    assert screen.file.getvalue().splitlines() == [
        "  training: epoch 1/1, step 20/30, loss 1.500, 12.3 images/s, data wait 1%, 0:00:00 left",
        "· epoch 1/1: train loss 1.400, accuracy 0.700; validation loss 0.900, mIoU 0.250",
    ]


@pytest.mark.parametrize("screen", [0], indirect=True)
def test_a_prefect_server_that_is_away_is_noted_once_and_comes_back(
    screen: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried, given = threading.Semaphore(0), []
    broken = True

    def create(percent: float, key: str, text: str) -> str:
        tried.release()
        if broken:
            raise httpx.ConnectError("no route")
        return "id"

    monkeypatch.setattr(training_table, "get_run_context", lambda: None)
    monkeypatch.setattr(training_table, "_PAGE_SECONDS", 0.01)
    monkeypatch.setattr(training_table, "create_progress_artifact", create)
    monkeypatch.setattr(training_table, "update_progress_artifact", lambda *what: given.append(what))
    with show_training(NAME, 1, 40, "val/miou") as on_event:
        for number in (10, 20):
            on_event(step(number))
            assert tried.acquire(timeout=10)
        broken = False
        on_event(step(30))
        assert tried.acquire(timeout=10)
        on_event(step(40))
    assert given[-1][:2] == ("id", 100.0)
    assert screen.file.getvalue().count("no progress on the run's page") == 1


@pytest.mark.parametrize("screen", [0], indirect=True)
def test_a_prefect_server_that_hangs_delays_nothing(screen: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(training_table, "get_run_context", lambda: None)
    monkeypatch.setattr(training_table, "_CLOSE_SECONDS", 0.1)
    monkeypatch.setattr(training_table, "create_progress_artifact", lambda *_: over.wait(60))
    start = time.monotonic()
    with show_training(NAME, 1, 40, "val/miou") as on_event:
        for number in range(1, 41):
            on_event(step(number))
    assert time.monotonic() - start < 5
    over.set()
