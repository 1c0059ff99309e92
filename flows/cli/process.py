"""How every command starts, answers and fails: environment, standard output, exit codes."""

import atexit
import gc
import json as json_module
import logging
import math
import os
import re
import secrets
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn, TextIO
from urllib.parse import urlsplit

import httpx
import typer
from rich.console import Console
from rich.table import Table

from flows.stack import environment, temporary_prefect
from vitseg.errors import UsageError, VitsegError

SOME_FAILED = 4
STOPPED = 130
_PATIENCE_SECONDS = 1  # before somebody is told why it still goes on
_GRACE_SECONDS = 20  # between a signal and the end, for what has to be told to servers and ranks
_GARBAGE = 10_000  # new objects between two searches for garbage: while torch, MLflow and Prefect load, there is none
_STOPPED_WORDS = "stopped: the same command goes on from here"
_QUIET = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_SIZE = re.compile(r"(\d+)x(\d+)$")


def run(app: typer.Typer) -> None:
    """Run the app with its environment, and turn every way to fail into one line and an exit code."""
    global _output, _told
    gc.set_threshold(_GARBAGE)
    atexit.register(_end)  # before libraries register theirs: the first that is registered runs last
    if len(sys.argv) > 1 and "--help" not in sys.argv:
        _output = _reserve_stdout()
    wants_json = "--json" in sys.argv
    _quiet_libraries()
    signal.signal(signal.SIGINT, _stop)  # by its own handler: what a script starts with `&` inherits SIGINT ignored
    signal.signal(signal.SIGTERM, _stop)  # so that what a command started is stopped with it
    code: Any = 0
    reason = "wrong usage: standard error says what, and `vitseg COMMAND --help` what there is"
    try:
        lost = environment.enter().lost
        if lost and "stack" not in sys.argv[1:2]:
            say("servers", f"{', '.join(lost)} stopped since `vitseg stack up`: run it again, or `vitseg stack down`")
        app()
    except SystemExit as stop:
        code = stop.code
        if code == STOPPED:  # typer has caught a Ctrl-C, and says nothing
            reason = _STOPPED_WORDS
            sys.stderr.write(f"{reason}\n")
    except VitsegError as error:
        Console(stderr=True, highlight=False).print("[bold red]error:[/bold red]", end=" ")
        sys.stderr.write(f"{error}\n")
        code, reason = error.exit_code, str(error)
    except KeyboardInterrupt:
        reason = _STOPPED_WORDS
        sys.stderr.write(f"{reason}\n")
        code = STOPPED
    except httpx.TransportError as error:
        reason = f"the Prefect server at {os.environ.get('PREFECT_API_URL')} does not answer ({type(error).__name__})"
        Console(stderr=True, highlight=False).print("[bold red]error:[/bold red]", end=" ")
        sys.stderr.write(f"{reason}: start it (`vitseg stack up`), and the same command goes on from here\n")
        code = 1
    except Exception as error:  # noqa: BLE001 - a mistake of ours is still told as an answer, below its traceback
        reason = f"{type(error).__name__}: {error}: this is a mistake in vitseg; what is above says where"
        traceback.print_exc()
        code = 1
    _told = True
    if code and wants_json and not _answered:
        _output.write(json_module.dumps({"error": reason, "exit_code": code}) + "\n")
    _output.flush()
    _leave(code)


def _leave(code: int | None) -> NoReturn:
    """End this process; without what Prefect would still deliver, for minutes, if its server is gone."""
    global _code
    url = urlsplit(os.environ.get("PREFECT_API_URL", ""))
    if url.hostname and "prefect" in sys.modules:
        try:
            port = url.port or (443 if url.scheme == "https" else 80)
            socket.create_connection((url.hostname, port), timeout=5).close()
        except OSError:
            sys.stderr.flush()
            os._exit(code or 0)
    _code = code or 0
    sys.exit(_code)


def _end() -> None:
    """Skip the interpreter's own end: it would take torch, MLflow and Prefect apart, object by object, for a second."""
    if _code is not None:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_code)


def _stop(number: int, frame: object) -> None:
    global _stops
    if _code is not None:  # all is told: only exit handlers are cut short
        os._exit(_code)
    _stops += 1
    if _stops == 1:
        for seconds, then in ((_PATIENCE_SECONDS, _say_stopping), (_GRACE_SECONDS, _leave_now)):
            timer = threading.Timer(seconds, then)
            timer.daemon = True
            timer.start()
        raise KeyboardInterrupt
    if _stops > 2:
        _leave_now()
    # Not by `sys.stderr`: whatever the signal has interrupted may be writing to it.
    os.write(2, b"still stopping: once more ends it at once\n")


def _say_stopping() -> None:
    if not _told:
        sys.stderr.write(f"stopping: what is under way is brought to its end, for {_GRACE_SECONDS} s at most\n")


def _leave_now() -> None:
    """End this process though something in it still waits; its children watch it and end too."""
    if not _told:
        sys.stderr.write(f"{_STOPPED_WORDS}\n")
        if "--json" in sys.argv and not _answered:
            _output.write(json_module.dumps({"error": _STOPPED_WORDS, "exit_code": STOPPED}) + "\n")
    _output.flush()
    sys.stderr.flush()
    os._exit(STOPPED)


def _quiet_libraries() -> None:
    """Keep libraries' own talk off the terminal; what flows log is still in their runs, and warnings stay.

    A flow that fails is told here in one line; Prefect would print its traceback too.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", "vitseg")
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)


def _reserve_stdout() -> TextIO:
    """Keep standard output for the answer: whatever libraries and children print goes to standard error."""
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return output


def make_way() -> None:
    """Undo `_reserve_stdout` and `_quiet_libraries`, for another program that takes this process's place."""
    os.dup2(_output.fileno(), 1)
    for name, value in _QUIET.items():
        if os.environ.get(name) == value:
            del os.environ[name]


_output: TextIO = sys.stdout
_answered = False
_code: int | None = None  # known once the command has ended
_stops = 0  # signals so far
_told = False  # how the command ended is on standard error, and on standard output with `--json`


def answer(result: dict[str, Any], as_json: bool, *, some_failed: bool = False) -> None:
    """Print a result as JSON or as a line a value, and end with exit code 4 if some inputs failed."""
    global _answered
    _answered = True
    if as_json:
        _output.write(json_module.dumps(_plain(result), allow_nan=False) + "\n")
    else:
        rows = _rows(result)
        width = max((len(name) for name, _ in rows), default=0)
        _output.writelines(f"{name:<{width}}  {value}\n" for name, value in rows)
    if some_failed:
        raise typer.Exit(SOME_FAILED)


def show_table(table: Table) -> None:
    """Print a table above the answer."""
    Console(file=_output, highlight=False).print(table)


def _plain(value: Any) -> Any:
    """Replace what JSON has no word for: not a number becomes null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _rows(result: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flatten a result into names and texts; matrices and what is empty are for `--json`."""
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


def say(server: str, what: str) -> None:
    """Tell the person at the terminal what a server does."""
    sys.stderr.write(f"  {server}: {what}\n")


def parse_size(text: str) -> tuple[int, int]:
    """Read WIDTHxHEIGHT as (height, width).

    Raises:
        UsageError: it is something else.
    """
    match = _SIZE.match(text)
    if match is None or not (0 < int(match[1]) <= 16384 and 0 < int(match[2]) <= 16384):
        raise UsageError(f"size {text!r}: write WIDTHxHEIGHT in pixels, as 512x256")
    return int(match[2]), int(match[1])


def gpus() -> int:
    """Return the number of GPUs here, at least 1: the default number of ranks."""
    import torch

    return max(1, torch.cuda.device_count())


def prepare_flow() -> None:
    """Get ready for Prefect where no server is named: one of this command's own, closed to others, that ends with it."""
    if not os.environ.get("PREFECT_API_URL"):
        secret = f"vitseg:{secrets.token_urlsafe(24)}"
        os.environ["PREFECT_SERVER_API_AUTH_STRING"] = os.environ["PREFECT_API_AUTH_STRING"] = secret
        temporary_prefect.end_children_with_this()
        temporary_prefect.start_server()


def prepare_tracking() -> None:
    """Make MLflow's own database where no server is named; the first time takes some seconds."""
    environment.prepare_tracking()


def show_stack(status: Any, as_json: bool) -> None:
    """Print where the servers are; never their credentials."""
    if as_json:
        answer(status.to_json(), as_json)
        return
    rows = {server.name: f"{server.url or ''}  {'ready' if server.ready else 'down'}" for server in status.servers}
    answer({**rows, "sign in with": f"users and passwords in {status.credentials}"}, as_json)


def show_model(preset: str, size: tuple[int, int], classes: int, overrides: Sequence[str], as_json: bool) -> None:
    """Print a preset's layers and its numbers."""
    from vitseg.config import load_recipe
    from vitseg.model.summary import summarize

    summary = summarize(load_recipe(preset, None, overrides).model, size, classes)
    result = {
        "preset": preset,
        "parameters": summary.parameters,
        "trainable": summary.trainable,
        "flops_per_image": summary.flops_per_image,
        "tokens": summary.tokens,
        "convolutions": summary.convolutions,
    }
    if not as_json:
        table = Table("layer", "output", "parameters", box=None, padding=(0, 2))
        for row in summary.rows:
            table.add_row(row.name, "×".join(map(str, row.output_shape)), f"{row.parameters:,}")
        show_table(table)
    answer(result, as_json)
