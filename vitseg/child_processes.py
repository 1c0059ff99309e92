"""Child processes that end with the process which started them, however that ends, or outlive it on purpose.

Every process started here carries a mark in its environment, which its own children inherit: a pid alone proves nothing,
for it may belong to another process by now. A process that ends in order stops its children by their mark. SIGKILL gives it
no chance: so a watcher beside it holds the other end of a pipe, which breaks when the process is gone, and does the same.
"""

import contextlib
import functools
import os
import secrets
import subprocess
import sys
import threading
import time
from subprocess import DEVNULL, PIPE
from typing import Any

import psutil

from vitseg.errors import VitsegError

MARK = "VITSEG_MARK"
"""Environment variable: `A/B` is what the process with children `A` has started under the name `B`."""
# On servers that the version before this one started; unrecognized, they would be started a second time.
_OLD_MARK = "VITSEG_SERVER"
_SECONDS = 8.0

_watchers: list[subprocess.Popen[bytes]] = []  # keeps the pipe open for as long as this process lives


@functools.cache
def mark_children() -> str:
    """Mark all processes that this one starts from now on, in any way, so that they end with it; return the mark."""
    os.environ[MARK] = mark = secrets.token_hex(8)
    environment = {name: value for name, value in os.environ.items() if name != MARK}
    command = [sys.executable, "-m", "vitseg.child_processes", mark]
    apart: dict[str, Any] = {"stdin": PIPE, "stdout": DEVNULL, "stderr": DEVNULL, "start_new_session": True}
    _watchers.append(subprocess.Popen(command, env=environment, **apart))
    return mark


def start(command: list[str], mark: str, environment: dict[str, str], **options: Any) -> subprocess.Popen[Any]:
    """Start a process in a session of its own, which a terminal's Ctrl-C does not reach.

    Args:
        command: program and arguments.
        mark: `mark_children()`, or a name below it, for a process that ends with this one; any other for one that outlives it.
        environment: all its variables; the mark is added.
        options: of `subprocess.Popen`.
    """
    return subprocess.Popen(command, env={**environment, MARK: mark}, start_new_session=True, **options)


def stop(mark: str, patience: float = _SECONDS) -> list[int]:
    """End every process with this mark, or one below it: SIGTERM, `patience` seconds, SIGKILL. Return their pids.

    Raises:
        VitsegError: a process is still there 30 s after SIGKILL.
    """
    ended = left = marked(mark)
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    deadline = time.monotonic() + patience
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = [process for process in left if is_alive(process.pid, mark)]  # looking at all processes costs more
    while left := marked(mark):  # also children that were born meanwhile
        if time.monotonic() > deadline + 30:
            raise VitsegError(f"process {left[0].pid} does not end, though it was killed")
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.05)
    return [process.pid for process in ended]


def marked(mark: str) -> list[psutil.Process]:
    """Return all running processes, but for this one, that carry a mark or one below it."""
    others = (process for process in psutil.process_iter() if process.pid != os.getpid())
    return [process for process in others if _carries(process, mark)]


def is_alive(pid: int | None, mark: str) -> bool:
    """Return whether `pid` is a running process that carries a mark."""
    with contextlib.suppress(psutil.Error):
        return pid is not None and _carries(psutil.Process(pid), mark)
    return False


def _carries(process: psutil.Process, mark: str) -> bool:
    with contextlib.suppress(psutil.Error, OSError):  # it has ended, or is another user's
        if process.status() != psutil.STATUS_ZOMBIE:
            variables = process.environ()
            return f"{variables.get(MARK) or variables.get(_OLD_MARK, '')}/".startswith(f"{mark}/")
    return False


def end_with_parent(patience: float = 15) -> None:
    """End this process when a parent that has not marked it has ended: SIGTERM, `patience` seconds, SIGKILL."""
    parent, this = os.getppid(), psutil.Process()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        this.terminate()
        time.sleep(patience)
        this.kill()

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


if __name__ == "__main__":
    sys.stdin.buffer.read()  # returns when the process that started this one is gone
    stop(sys.argv[1])
