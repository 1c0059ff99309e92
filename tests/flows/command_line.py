"""Runs the real command in a process of its own, as a person or a scheduler would."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil

COMMAND = [sys.executable, "-c", "from flows.cli import main; main()"]


@dataclass(frozen=True)
class Finished:
    """A command that ended by itself."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.out)


def vitseg(*arguments: str, env: dict[str, str] | None = None) -> Finished:
    """Run a command to its end."""
    done = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=240, env={**os.environ, **(env or {})}
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def kill_when(ready: Callable[[], bool], *arguments: str, patience: float = 120) -> list[psutil.Process]:
    """Start a command, SIGKILL it alone as soon as `ready` holds, and return the children it had then."""
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_for(process, ready, patience)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return children


def wait_for(process: subprocess.Popen[str], ready: Callable[[], bool], patience: float = 120) -> None:
    """Wait for a moment in the life of a process."""
    deadline = time.monotonic() + patience
    while process.poll() is None and not ready():
        assert time.monotonic() < deadline, "the moment never came"
        time.sleep(0.02)
    assert process.poll() is None, f"it ended before that moment: {process.communicate()[1]}"
