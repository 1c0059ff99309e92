"""The Prefect server: the stack's, and the temporary one of a single command; run as `python -m flows.stack.prefect_server`."""

import argparse
import contextlib
import gc
import os
import secrets
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from flows.stack.processes import last_line
from vitseg import child_processes

_HOST = "127.0.0.1"
_GARBAGE = 100_000  # new objects between two garbage collections: importing Prefect makes many, and no garbage
_QUICK = {
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
    "PREFECT_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false",  # it would import Dask, Ray and boto3 to see what to register
}
_settings: list[contextlib.AbstractContextManager[Any]] = []  # of a process with a temporary server, until its end


def command(*options: str) -> list[str]:
    """Return the command that runs a server with these options of `main`."""
    return [sys.executable, "-m", "flows.stack.prefect_server", *options]


def log_file() -> Path:
    """Return where the temporary server writes its errors."""
    return Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser() / "temporary-server.log"


def advice() -> str:
    """Return what to do where the server does not answer."""
    if _settings:
        return f"it is this command's own; {log_file()} ends with: {last_line(log_file())}"
    return "start it (`vitseg stack up`), and the same command goes on from here"


def start_temporary() -> None:
    """Start a server that only this command can use and that ends with it, and name it to this process and its children.

    Call it before Prefect is imported. The server needs seconds, in which this process goes on: its first request waits in
    the queue of the socket that is opened here. The server must outlive a terminal's Ctrl-C, for the flow reports its end.
    """
    login = f"vitseg:{secrets.token_urlsafe(24)}"
    log_file().parent.mkdir(parents=True, exist_ok=True)
    log_file().unlink(missing_ok=True)  # another command's server may still write to it
    with socket.create_server((_HOST, 0)) as listener, log_file().open("ab") as log:
        descriptor = listener.fileno()
        child_processes.start(
            command("--temporary", "--socket", str(descriptor)),
            f"{child_processes.mark_children()}/prefect",
            {**os.environ, **_QUICK, "PREFECT_SERVER_API_AUTH_STRING": login},
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[descriptor],
        )  # fmt: skip
        os.environ["PREFECT_API_URL"] = f"http://{_HOST}:{listener.getsockname()[1]}/api"
    os.environ["PREFECT_API_AUTH_STRING"] = login
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    # Nobody watches for heartbeats here, and a flow waits for its heart's next look at the clock before it ends.
    _settings.append(temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}))
    _settings[-1].__enter__()


def main(arguments: list[str]) -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--port", type=int)
    place.add_argument("--socket", type=int, help="descriptor of a socket that listens already")
    parser.add_argument("--temporary", action="store_true", help="no pages, no schedules")
    options = parser.parse_args(arguments)
    gc.set_threshold(_GARBAGE)
    import uvicorn
    from prefect.server.api.server import create_app

    listener = socket.create_server((_HOST, options.port)) if options.port else socket.socket(fileno=options.socket)
    app = create_app(ephemeral=options.temporary, final=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error" if options.temporary else "warning")).run([listener])


if __name__ == "__main__":
    main(sys.argv[1:])
