"""Notes and progress on standard error while a flow runs; notes also go to the flow run's log.

Progress is a bar on a terminal, and elsewhere a plain line every few seconds. Standard output stays free for `--json`.
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from vitseg.errors import printable

console = Console(stderr=True, highlight=False, soft_wrap=True)

_LINE_SECONDS = 5.0
_SPEED_SECONDS = 30.0


def note(text: str) -> None:
    """Write a line for people, and to the flow run's log if there is one."""
    text = printable(text)
    console.print(f"[dim]·[/dim] {escape(text)}")
    log_note(text)


def warn(text: str) -> None:
    """Write a line about a likely mistake, as `note` does."""
    console.print(f"[bold yellow]warning:[/bold yellow] {escape(text)}")
    with contextlib.suppress(MissingContextError):
        get_run_logger().warning(text)


def log_note(text: str) -> None:
    """Write to the flow run's log alone, if there is one."""
    with contextlib.suppress(MissingContextError):
        get_run_logger().info(text)


def pluralize(number: int, word: str) -> str:
    """Return `1 rank`, `2 ranks`."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def headline(text: str) -> None:
    """Write the heading of a step."""
    console.print(f"\n[bold]{escape(text)}[/bold]")


class _TimeLeftColumn(TimeRemainingColumn):
    """The time left, if the total is known."""

    def render(self, task: Task) -> Text:
        """Return the text of the column."""
        return Text("") if task.total is None else Text("left ", style="default") + super().render(task)


@contextlib.contextmanager
def progress(what: str, total: int | None = None, unit: str = "") -> Iterator[Callable[..., None]]:
    """Show progress while the block runs; yield `show(done, total)`, whose total may be left out if it is unknown."""
    if console.is_terminal:
        columns = (
            TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
            TimeElapsedColumn(), _TimeLeftColumn(),
        )  # fmt: skip
        with Progress(*columns, console=console, transient=True) as bar:
            row = bar.add_task(what, total=total)
            yield lambda done, of=None: bar.update(row, completed=done, total=of)
        return
    start = last = time.monotonic()
    seen = deque([(start, 0)])  # time and amount done, of the last seconds: they give the speed

    def line(done: int, of: int | None = None) -> None:
        nonlocal last
        now = time.monotonic()
        seen.append((now, done))
        while len(seen) > 2 and seen[1][0] < now - _SPEED_SECONDS:
            seen.popleft()
        if now - last >= _LINE_SECONDS or (done == of and now - start >= _LINE_SECONDS):
            last = now
            since, before = seen[0]
            left = f", {(now - since) / (done - before) * (of - done):.0f} s left" if of and before < done < of else ""
            console.print(f"  {what}: {done}{f'/{of}' if of else ''} {unit}".rstrip() + left)

    yield line
