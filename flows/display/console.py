"""What a person sees while a flow runs: notes and progress on standard error, the same notes in the flow run's log.

On a terminal progress is a bar; elsewhere it is a plain line every few seconds. Standard output stays free for `--json`.
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

console = Console(stderr=True, highlight=False, soft_wrap=True)

_LINE_SECONDS = 5.0
_SPEED_SECONDS = 30.0


def note(text: str) -> None:
    """Tell the person at the terminal, and the flow run's log where there is one."""
    console.print(f"[dim]·[/dim] {escape(text)}")
    log_note(text)


def log_note(text: str) -> None:
    """Tell the flow run's log alone, where there is one."""
    with contextlib.suppress(MissingContextError):
        get_run_logger().info(text)


def pluralize(number: int, word: str) -> str:
    """Return `1 rank`, `2 ranks`."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def headline(text: str) -> None:
    """Announce a step."""
    console.print(f"\n[bold]{escape(text)}[/bold]")


class _LeftColumn(TimeRemainingColumn):
    """How long the rest will take, where anybody can know."""

    def render(self, task: Task) -> Text:
        """Return it as text."""
        return Text("") if task.total is None else Text("left ", style="default") + super().render(task)


@contextlib.contextmanager
def progress(what: str, total: int | None = None, unit: str = "") -> Iterator[Callable[..., None]]:
    """Show progress while the block runs; it is given `show(done, total)`, and adding text to it is up to `note`.

    A total that nobody knows is left out.
    """
    if console.is_terminal:
        columns = (
            TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
            TimeElapsedColumn(), _LeftColumn(),
        )  # fmt: skip
        with Progress(*columns, console=console, transient=True) as bar:
            row = bar.add_task(what, total=total)
            yield lambda done, of=None: bar.update(row, completed=done, total=of)
        return
    start = last = time.monotonic()
    seen = deque([(start, 0)])  # when, and how much was done: speed is that of the last while

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
