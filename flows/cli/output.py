"""Standard output of a command: one answer, as a table or as one JSON object, and nothing else."""

import json
import math
import os
import sys
from typing import Any, TextIO

import typer
from rich.console import Console
from rich.table import Table

SOME_FAILED = 4


class Output:
    """Standard output, kept for the answer."""

    def __init__(self) -> None:
        """Write to standard output until it is reserved."""
        self.stream: TextIO = sys.stdout
        self.answered = False

    def reserve(self) -> None:
        """Send whatever libraries and children print to standard error."""
        self.stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def release(self) -> None:
        """Undo `reserve`, for another program that takes the place of this process."""
        os.dup2(self.stream.fileno(), 1)

    def answer(self, result: dict[str, Any], as_json: bool, *, some_failed: bool = False) -> None:
        """Print a result as JSON or with one value a line, and end with exit code 4 if some inputs failed."""
        self.answered = True
        if as_json:
            self.stream.write(json.dumps(_plain(result), allow_nan=False) + "\n")
        else:
            rows = _rows(result)
            width = max((len(name) for name, _ in rows), default=0)
            self.stream.writelines(f"{name:<{width}}  {value}\n" for name, value in rows)
        if some_failed:
            raise typer.Exit(SOME_FAILED)

    def show_table(self, table: Table) -> None:
        """Print a table above the answer."""
        Console(file=self.stream, highlight=False).print(table)

    def end(self, error: str = "", exit_code: int = 0) -> None:
        """Write everything out; a command with `--json` that failed without an answer prints its error as one."""
        if exit_code and "--json" in sys.argv and not self.answered:
            self.stream.write(json.dumps({"error": error, "exit_code": exit_code}) + "\n")
        self.stream.flush()


stdout = Output()
answer, show_table = stdout.answer, stdout.show_table


def report(server: str, event: str) -> None:
    """Show on standard error what a server does."""
    sys.stderr.write(f"  {server}: {event}\n")


def _plain(value: Any) -> Any:
    """Replace what JSON can't express: a float that is not finite becomes null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _rows(result: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flatten a result into names and texts; leave out nested lists and empty values."""
    rows: list[tuple[str, str]] = []
    for name, value in result.items():
        if isinstance(value, dict):
            rows += _rows(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple) and any(isinstance(item, list | dict) for item in value):
            continue
        elif isinstance(value, list | tuple):
            rows.append((prefix + name, ", ".join(map(str, value))))
        elif isinstance(value, float):
            rows.append((prefix + name, f"{value:.4g}"))
        elif value is not None:
            rows.append((prefix + name, str(value)))
    return [(name, text) for name, text in rows if text]
