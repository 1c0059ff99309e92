"""A training as people see it: a live table on a terminal, plain lines elsewhere, and progress on the run's page.

The table has a row per epoch, the last one for the running epoch, and a progress bar below. When training ends, the rows
stay.
"""

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import Any, cast
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import get_run_context
from prefect.exceptions import MissingContextError, PrefectException
from rich.console import Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flows.display.console import console, log_note, note
from flows.display.training_state import TrainingState, epoch_line, format_flops, format_seconds, format_value

_LINE_SECONDS = 5.0
_PAGE_SECONDS = 5.0
_CLOSE_SECONDS = 5.0
_ROWS = 6
_BAR = 40
_TITLES = {
    "train/loss": "loss",
    "train/pixel_accuracy": "accuracy",
    "val/loss": "val loss",
    "val/miou": "val mIoU",
    "val/psnr": "val PSNR",
    "images_per_second": "images/s",
    "data_wait": "data wait",
}
_MIN_WIDTH = 40
"""Columns of a terminal that fits the other columns; on a narrower one texts are cut off."""
_OPTIONAL = ("val/loss", "train/pixel_accuracy", "data_wait", "images_per_second")
"""Columns that a narrow terminal leaves out, in this order."""
_FRAMES_PER_SECOND = 4


@contextlib.contextmanager
def show_training(
    name: str, epochs: int, per_epoch: int, measure: str, minutes: float | None = None
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Show the training of a job while the block runs; yield a function that takes the events of its ranks.

    The other arguments are those of `TrainingState`.
    """
    state = TrainingState(epochs, per_epoch, measure, minutes)
    page = _RunPage(name)
    show = _LiveTable(state) if console.is_terminal else _PlainLines(state)
    try:
        with show:

            def on_event(event: dict[str, Any]) -> None:
                if event["event"] == "note":
                    note(event["text"])
                if line := event.get("precision"):
                    note(line)
                if event["event"] not in ("start", "step", "epoch"):
                    return
                state.on_event(event)
                show.on_event(event)
                page.update(100 * state.step / state.steps, state.status_line())

            yield on_event
        if speed := state.speed_text():
            note(f"trained {speed}")
    finally:
        page.close()


class _PlainLines(contextlib.nullcontext[None]):
    """A plain line every few seconds, and one per epoch."""

    def __init__(self, state: TrainingState) -> None:
        super().__init__()
        self.state = state
        self._last = time.monotonic()

    def on_event(self, event: dict[str, Any]) -> None:
        if event["event"] == "epoch":
            note(epoch_line(event, self.state.epochs))
        elif event["event"] == "step" and time.monotonic() - self._last >= _LINE_SECONDS:
            self._last = time.monotonic()
            console.print(f"  training: {self.state.status_line()}")


class _LiveTable:
    """The live table on a terminal."""

    def __init__(self, state: TrainingState) -> None:
        self.state = state
        self._began = time.monotonic()
        self._live = Live(
            get_renderable=self._frame, console=console, refresh_per_second=_FRAMES_PER_SECOND, transient=True
        )

    def __enter__(self) -> None:
        self._live.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._live.__exit__(*error)
        if rows := self.state.rows[self.state.earlier :]:
            console.print(epoch_table(self.state, rows, running=False, width=console.width))

    def on_event(self, event: dict[str, Any]) -> None:
        if event["event"] == "epoch":
            log_note(epoch_line(event, self.state.epochs))

    def _frame(self) -> RenderableType:
        width = console.width
        rows = max(1, min(_ROWS, console.height - 8))
        running = len(self.state.rows) < self.state.epochs
        return Group(
            epoch_table(self.state, self.state.rows[-rows:], running=running, width=width),
            Text(),
            progress_bar(self.state, time.monotonic() - self._began, width),
            Text(f" {status_text(self.state)}", style="dim", no_wrap=True, overflow="ellipsis"),
        )


def epoch_table(state: TrainingState, rows: list[dict[str, Any]], *, running: bool, width: int = 80) -> Table:
    """Return these rows, and with `running` the running epoch, as a table that fits a terminal of `width` columns."""
    columns = ["train/loss", "val/loss", "images_per_second", "data_wait"]
    if state.measure == "val/miou":  # models with classes have a pixel accuracy
        columns.insert(1, "train/pixel_accuracy")
    if state.measure != "val/loss":
        columns.insert(-2, state.measure)
    epoch, step = len(f"{state.epochs}/{state.epochs}"), len(f"{state.steps}")
    for column in _OPTIONAL:
        if max(5, epoch) + max(4, step) + 4 + sum(_width(name) + 2 for name in columns) > width:
            columns = [name for name in columns if name != column]
    steady = width >= _MIN_WIDTH
    grid = Table(box=None, padding=(0, 1), header_style="dim")
    grid.add_column("epoch", justify="right", no_wrap=True, min_width=epoch if steady else None)
    grid.add_column("step", justify="right", no_wrap=True, min_width=step if steady else None)
    for column in columns:
        grid.add_column(_TITLES[column], justify="right", no_wrap=True, min_width=_width(column) if steady else None)
    best = state.best

    def add(values: dict[str, Any], epoch: int, step: str, style: str = "") -> None:
        cells = [Text(format_value(column, values[column]) if column in values else "") for column in columns]
        if values is best:
            cells[columns.index(state.measure)].stylize("bold green")
        grid.add_row(f"{epoch}/{state.epochs}", step, *cells, style=style)

    for row in rows:
        add(row, row["epoch"], str(row["step"]))
    if running:
        add(state.running_epoch, state.epoch, str(state.step), "bold cyan")
    return grid


def _width(column: str) -> int:
    return max(6, len(_TITLES[column]))


def progress_bar(state: TrainingState, elapsed: float, width: int = 80) -> Padding:
    """Return a progress bar with steps, elapsed time and time left."""
    steps = f"{state.step}/{state.steps}"
    passed, left = format_seconds(elapsed), state.time_left_text()
    grid = Table.grid(padding=(0, 2))
    for _ in range(4):
        grid.add_column(no_wrap=True)
    room = width - len(steps) - len(passed) - len("0:00:00 left") - 8
    bar = ProgressBar(total=state.steps, completed=state.step, width=max(4, min(_BAR, room)))
    grid.add_row(bar, steps, Text(passed, style="yellow"), Text(left, style="cyan"))
    return Padding(grid, (0, 0, 0, 1))


def status_text(state: TrainingState) -> str:
    """Return the facts that are not in the table: best epoch, learning rate, FLOP/s."""
    if not state.last:
        return "first steps" if state.started else "starting"
    facts = [state.best_text(), f"learning rate {state.last['learning_rate']:.2g}"]
    if "tflops" in state.last:
        facts.append(f"{format_flops(state.last['tflops'])}, {state.last['flops_utilization']:.0%} of peak")
    if state.is_validating:
        facts.append("validating")
    return " · ".join(fact for fact in facts if fact)


class _RunPage:
    """Progress on the flow run's page in Prefect, updated by a thread: an API that is slow or away delays nothing else."""

    def __init__(self, name: str) -> None:
        self._key = "training-" + re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
        self._changed = threading.Event()
        self._closed = threading.Event()
        self._latest: tuple[float, str] = (0.0, "starting")
        self._thread: threading.Thread | None = None
        with contextlib.suppress(MissingContextError):  # outside of a flow there is no page
            get_run_context()
            # With this context, Prefect knows the run that the thread belongs to.
            self._thread = threading.Thread(target=copy_context().run, args=(self._publish,), daemon=True)
            self._thread.start()

    def update(self, percent: float, text: str) -> None:
        """Show this soon."""
        self._latest = (percent, text)
        self._changed.set()

    def close(self) -> None:
        """Show the last update, unless the API takes longer than a few seconds."""
        self._closed.set()
        self._changed.set()
        if self._thread:
            self._thread.join(_CLOSE_SECONDS)

    def _publish(self) -> None:
        artifact: UUID | None = None
        away = last = False
        while not last:
            self._changed.wait()
            self._changed.clear()
            last = self._closed.is_set()
            percent, text = self._latest
            try:
                if artifact is None:
                    artifact = cast(UUID, create_progress_artifact(percent, self._key, text))
                else:
                    update_progress_artifact(artifact, percent, text)
                away = False
            # RuntimeError: Prefect closed its client
            except (httpx.HTTPError, PrefectException, RuntimeError) as error:
                if not away:
                    note(f"no progress on the run's page for now: {type(error).__name__}")
                away = True
            self._closed.wait(_PAGE_SECONDS)
