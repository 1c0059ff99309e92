"""What a person sees of a training: a live table on a terminal, plain lines elsewhere, and progress on the run's page.

The table grows by a row an epoch, the last one under way, over a bar; when training ends its rows stay.
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
from flows.display.training_state import TrainingState, clock, epoch_line, flops, shown

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
_NARROWEST = 40
"""Columns of a terminal that holds what is left then; on a narrower one texts are cut."""
_LESS = ("val/loss", "train/pixel_accuracy", "data_wait", "images_per_second")
"""The columns that a narrow terminal goes without first."""
_FRAMES_PER_SECOND = 4


@contextlib.contextmanager
def show_training(
    name: str, epochs: int, per_epoch: int, measure: str, minutes: float | None = None
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Show a training while the block runs; it is given what takes the events of its ranks.

    Args:
        name: of the job, for the progress that Prefect keeps.
        epochs: of the recipe.
        per_epoch: steps of each.
        measure: by what epochs are compared, one of `flows.display.training_state.MEASURES`.
        minutes: that training may take, all its starts together; None: any time.
    """
    state = TrainingState(epochs, per_epoch, measure, minutes)
    page = _Page(name)
    show = _Terminal(state) if console.is_terminal else _Lines(state)
    try:
        with show:

            def on_event(event: dict[str, Any]) -> None:
                if event["event"] == "note":
                    note(event["text"])
                if event["event"] not in ("start", "step", "epoch"):
                    return
                state.on_event(event)
                show.on_event(event)
                page.update(100 * state.step / state.steps, state.line())

            yield on_event
        if speed := state.speed_text():
            note(f"trained {speed}")
    finally:
        page.close()


class _Lines:
    """A plain line every few seconds, and one an epoch."""

    def __init__(self, state: TrainingState) -> None:
        self.state = state
        self._last = time.monotonic()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def on_event(self, event: dict[str, Any]) -> None:
        if event["event"] == "epoch":
            note(epoch_line(event, self.state.epochs))
        elif event["event"] == "step" and time.monotonic() - self._last >= _LINE_SECONDS:
            self._last = time.monotonic()
            console.print(f"  training: {self.state.line()}")


class _Terminal:
    """The live table."""

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
        if len(self.state.rows) > self.state.earlier:
            console.print(table(self.state, self.state.rows[self.state.earlier :], False, console.width))

    def on_event(self, event: dict[str, Any]) -> None:
        if event["event"] == "epoch":
            log_note(epoch_line(event, self.state.epochs))

    def _frame(self) -> RenderableType:
        width = console.width
        rows = max(1, min(_ROWS, console.height - 8))
        parts = (
            table(self.state, self.state.rows[-rows:], len(self.state.rows) < self.state.epochs, width),
            Text(),
            bar(self.state, time.monotonic() - self._began, width),
            Text(f" {below(self.state)}", style="dim", no_wrap=True, overflow="ellipsis"),
        )
        return Group(*parts)


def table(state: TrainingState, rows: list[dict[str, Any]], under_way: bool, width: int = 80) -> Table:
    """Return finished epochs, and the one that is under way, as a table; a narrow terminal goes without some columns."""
    columns = ["train/loss", "val/loss", "images_per_second", "data_wait"]
    if state.measure == "val/miou":  # what has classes has right pixels
        columns.insert(1, "train/pixel_accuracy")
    if state.measure != "val/loss":
        columns.insert(-2, state.measure)
    epoch, step = len(f"{state.epochs}/{state.epochs}"), len(f"{state.steps}")
    for column in _LESS:
        if max(5, epoch) + max(4, step) + 4 + sum(_width(name) + 2 for name in columns) > width:
            columns = [name for name in columns if name != column]
    steady = width >= _NARROWEST
    grid = Table(box=None, padding=(0, 1), header_style="dim")
    grid.add_column("epoch", justify="right", no_wrap=True, min_width=epoch if steady else None)
    grid.add_column("step", justify="right", no_wrap=True, min_width=step if steady else None)
    for column in columns:
        grid.add_column(_TITLES[column], justify="right", no_wrap=True, min_width=_width(column) if steady else None)
    best = state.best

    def add(values: dict[str, Any], epoch: int, step: str, style: str = "") -> None:
        cells = [Text(shown(column, values[column]) if column in values else "") for column in columns]
        if values is best:
            cells[columns.index(state.measure)].stylize("bold green")
        grid.add_row(f"{epoch}/{state.epochs}", step, *cells, style=style)

    for row in rows:
        add(row, row["epoch"], str(row["step"]))
    if under_way:
        add(state.now, state.epoch, str(state.step), "bold cyan")
    return grid


def _width(column: str) -> int:
    return max(6, len(_TITLES[column]))


def bar(state: TrainingState, elapsed: float, width: int = 80) -> Padding:
    """Return how much is done, how long that took, and how long the rest will."""
    steps = f"{state.step}/{state.steps}"
    passed, left = clock(elapsed), state.left_text()
    grid = Table.grid(padding=(0, 2))
    for _ in range(4):
        grid.add_column(no_wrap=True)
    room = width - len(steps) - len(passed) - len("0:00:00 left") - 8
    shown = ProgressBar(total=state.steps, completed=state.step, width=max(4, min(_BAR, room)))
    grid.add_row(shown, steps, Text(passed, style="yellow"), Text(left, style="cyan"))
    return Padding(grid, (0, 0, 0, 1))


def below(state: TrainingState) -> str:
    """Return what has no place in the table."""
    if not state.last:
        return "first steps" if state.started else "starting"
    facts = [state.best_text(), f"learning rate {state.last['learning_rate']:.2g}"]
    if "tflops" in state.last:
        facts.append(f"{flops(state.last['tflops'])}, {state.last['flops_utilization']:.0%} of peak")
    if state.is_validating:
        facts.append("validating")
    return " · ".join(fact for fact in facts if fact)


class _Page:
    """Progress on the flow run's page in Prefect, told by a thread: an API that is slow or away holds up nobody."""

    def __init__(self, name: str) -> None:
        self._key = "training-" + re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
        self._news = threading.Event()
        self._over = threading.Event()
        self._told: tuple[float, str] = (0.0, "starting")
        self._thread: threading.Thread | None = None
        with contextlib.suppress(MissingContextError):  # outside of a flow there is no page
            get_run_context()
            # The thread belongs to this run: Prefect finds it in the context.
            self._thread = threading.Thread(target=copy_context().run, args=(self._deliver,), daemon=True)
            self._thread.start()

    def update(self, percent: float, text: str) -> None:
        """Have this shown soon."""
        self._told = (percent, text)
        self._news.set()

    def close(self) -> None:
        """Show what was told last; an API that takes longer than a few seconds goes without."""
        self._over.set()
        self._news.set()
        if self._thread:
            self._thread.join(_CLOSE_SECONDS)

    def _deliver(self) -> None:
        artifact: UUID | None = None
        away = last = False
        while not last:
            self._news.wait()
            self._news.clear()
            last = self._over.is_set()
            percent, text = self._told
            try:
                if artifact is None:
                    artifact = cast(UUID, create_progress_artifact(percent, self._key, text))
                else:
                    update_progress_artifact(artifact, percent, text)
                away = False
            except (httpx.HTTPError, PrefectException, RuntimeError) as error:  # RuntimeError: its client was closed
                if not away:
                    note(f"no progress on the run's page for now: {type(error).__name__}")
                away = True
            self._over.wait(_PAGE_SECONDS)
