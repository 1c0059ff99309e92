"""How every command starts and ends: libraries kept quiet, signals, one line for each failure, exit codes."""

import atexit
import gc
import logging
import os
import signal
import socket
import sys
import threading
import traceback
from types import FrameType
from typing import NoReturn
from urllib.parse import urlsplit

import httpx
import typer
from rich.console import Console

from flows.cli.output import report, stdout
from flows.stack import environment, prefect_server
from vitseg import child_processes
from vitseg.errors import VitsegError

STOPPED = 130
_PATIENCE_SECONDS = 1  # between a signal and the line that says why the command still runs
_GRACE_SECONDS = 20  # between a signal and the end: ranks end, and flows report it to their server
_GARBAGE = 10_000  # new objects between two garbage collections: none is found while torch, MLflow and Prefect load
_STOPPED_TEXT = "stopped: the same command goes on from here"
_USAGE_TEXT = "wrong usage: standard error says what, and `vitseg COMMAND --help` what there is"
_DESCRIPTIONS = {"--help", "--version", "--show-completion", "--install-completion"}
_QUIET = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def run(app: typer.Typer) -> None:
    """Run the app with its environment; turn every failure into one line and an exit code."""
    gc.set_threshold(_GARBAGE)
    command = Command()
    atexit.register(command.skip_interpreter_end)  # before libraries register theirs: handlers run in reverse order
    if _describes_itself(sys.argv[1:]):
        app()
    stdout.reserve()
    _quiet_libraries()
    command.handle_signals()
    command.leave(*_run(app))


def _describes_itself(arguments: list[str]) -> bool:
    """Return whether a command only prints help, its version, or completions (whose words are in the environment)."""
    own = arguments[:3] if arguments[:2] == ["stack", "run"] else arguments
    return not own or not _DESCRIPTIONS.isdisjoint(own)


def _run(app: typer.Typer) -> tuple[int, str]:
    """Run the app; return its exit code and why it failed."""
    try:
        lost = environment.enter()
        if lost and "stack" not in sys.argv[1:2]:
            report(
                "servers", f"{', '.join(lost)} stopped since `vitseg stack up`: run it again, or `vitseg stack down`"
            )
        app()
    except VitsegError as error:
        _show_error(str(error))
        return error.exit_code, str(error)
    except (SystemExit, KeyboardInterrupt) as stop:
        if (
            isinstance(stop, SystemExit) and stop.code != STOPPED
        ):  # with which typer ends at a Ctrl-C, and prints nothing
            wrong = getattr(stop.__context__, "format_message", None)  # of click's error, which typer has shown
            return (stop.code if isinstance(stop.code, int) else bool(stop.code)), wrong() if wrong else _USAGE_TEXT
        sys.stderr.write(f"{_STOPPED_TEXT}\n")
        return STOPPED, _STOPPED_TEXT
    except Exception as error:  # noqa: BLE001 - a bug of ours still ends with an answer, below its traceback
        if transport := _transport_error(error):
            reason = f"the Prefect server at {os.environ.get('PREFECT_API_URL')} does not answer ({type(transport).__name__})"
            _show_error(f"{reason}: {prefect_server.advice()}")
            return 1, reason
        traceback.print_exc()
        return 1, f"{type(error).__name__}: {error}: this is a bug in vitseg; the traceback above says where"
    return 0, ""


def _transport_error(error: BaseException | None) -> httpx.TransportError | None:
    """Return the failure to reach a server that an error is, or that Prefect has wrapped in it."""
    if error is None or isinstance(error, httpx.TransportError):
        return error
    return _transport_error(error.__cause__)


def _show_error(text: str) -> None:
    Console(stderr=True, highlight=False).print("[bold red]error:[/bold red]", end=" ")
    sys.stderr.write(f"{text}\n")


class Command:
    """This process as a command: what signals do to it, and how it ends."""

    def __init__(self) -> None:
        self.exit_code: int | None = None  # until the command has ended
        self.signals = 0
        self.reported = False  # whether standard error, and with `--json` standard output, say how it ended

    def handle_signals(self) -> None:
        """Stop on SIGINT and SIGTERM; also where a script's `&` made this process ignore SIGINT."""
        signal.signal(signal.SIGINT, self.on_signal)
        signal.signal(signal.SIGTERM, self.on_signal)

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Stop in order at the first signal, warn at the second, and end at once at the third."""
        if self.exit_code is not None:  # the command has ended: only exit handlers are cut short
            os._exit(self.exit_code)
        self.signals += 1
        if self.signals == 1:
            for seconds, then in ((_PATIENCE_SECONDS, self._report_stopping), (_GRACE_SECONDS, self._end_now)):
                timer = threading.Timer(seconds, then)
                timer.daemon = True
                timer.start()
            raise KeyboardInterrupt
        if self.signals > 2:
            self._end_now()
        # Not by `sys.stderr`: the code that the signal interrupted may be writing to it.
        os.write(2, b"still stopping: once more ends it at once\n")

    def leave(self, exit_code: int, error: str) -> NoReturn:
        """End this process; if its Prefect server is gone, without the minutes in which Prefect would look for it."""
        self.reported = True
        stdout.end(error, exit_code)
        if "prefect" in sys.modules and not _prefect_answers():
            sys.stderr.flush()
            os._exit(exit_code)
        self.exit_code = exit_code
        sys.exit(exit_code)

    def skip_interpreter_end(self) -> None:
        """Exit without the second in which the interpreter would take torch, MLflow and Prefect apart."""
        if self.exit_code is not None:
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self.exit_code)

    def _report_stopping(self) -> None:
        if not self.reported:
            sys.stderr.write(f"stopping: work under way comes to its end, in {_GRACE_SECONDS} s at most\n")

    def _end_now(self) -> None:
        """End this process though something in it still waits; its children end with it."""
        if not self.reported:
            sys.stderr.write(f"{_STOPPED_TEXT}\n")
            stdout.end(_STOPPED_TEXT, STOPPED)
        sys.stderr.flush()
        os._exit(STOPPED)


def _prefect_answers() -> bool:
    """Return whether something listens where Prefect's server should, if one is named."""
    url = urlsplit(os.environ.get("PREFECT_API_URL", ""))
    if url.hostname:
        try:
            port = url.port or (443 if url.scheme == "https" else 80)
            socket.create_connection((url.hostname, port), timeout=5).close()
        except OSError:
            return False
    return True


def _quiet_libraries() -> None:
    """Keep the libraries' own messages off the terminal; flow logs stay in their runs, and warnings stay visible.

    A flow that fails is reported here in one line; Prefect would print its traceback too.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", "vitseg")
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)


def become(program: str, arguments: list[str]) -> NoReturn:
    """Become another program, with standard output and the environment as this process found them."""
    stdout.release()
    for name, value in _QUIET.items():
        if os.environ.get(name) == value:
            del os.environ[name]
    os.execvp(program, arguments)  # noqa: S606 - this is what it is for


def prepare_flow() -> None:
    """Get ready for Prefect: what this command starts ends with it; so does its server, where none is named."""
    child_processes.mark_children()
    if not os.environ.get("PREFECT_API_URL"):
        prefect_server.start_temporary()


def prepare_tracking() -> None:
    """Create MLflow's own database where no server is named; the first time takes some seconds."""
    environment.prepare_tracking()
