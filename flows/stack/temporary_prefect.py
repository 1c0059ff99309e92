"""A watcher beside a command: if the command is killed, it ends what the command had started.

A command that ends in order stops its children itself; SIGKILL gives it no chance. The watcher holds the other end of
a pipe, which breaks when the command is gone, and then ends every process that carries the command's mark in its
environment: Prefect's temporary server, above all.
"""

import contextlib
import functools
import os
import secrets
import subprocess
import sys
import types

import psutil

MARK = "VITSEG_COMMAND"
_GRACE_SECONDS = 5
_watchers: list[subprocess.Popen[bytes]] = []  # keeps the pipes open as long as this process lives

_settings = contextlib.ExitStack()  # what this process has set until its end


def end_children_with_this() -> None:
    """Start the watcher of this process; children started from now on carry its mark."""
    os.environ[MARK] = secrets.token_hex(8)
    command = [sys.executable, "-m", "flows.stack.temporary_prefect", os.environ[MARK]]
    _watchers.append(subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True))


def start_server() -> None:
    """Start Prefect's temporary server in a session of its own, and name it to the workers of this command.

    A terminal's Ctrl-C reaches every process of the command's group. The server would be gone at once, and the flow, which
    has to tell it that it was stopped, would look for it for a minute. Like this it ends after the command, or by the watcher.
    And worker processes that know of no server start one each, which takes as long as a small job.
    """
    from prefect.server.api import server
    from prefect.settings import PREFECT_API_URL, temporary_settings

    apart = types.SimpleNamespace(**vars(subprocess))
    apart.Popen = functools.partial(subprocess.Popen, start_new_session=True)
    server.subprocess = apart  # type: ignore[assignment]
    started = server.SubprocessASGIServer()
    started.start()
    _settings.enter_context(temporary_settings({PREFECT_API_URL: started.api_url}))  # settings travel with each task


def end_marked(mark: str) -> None:
    """End all processes that carry a mark, but for this one."""
    marked = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                marked.append(process)
                process.terminate()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # it has ended, or is another user's
    for process in psutil.wait_procs(marked, timeout=_GRACE_SECONDS)[1]:
        process.kill()


if __name__ == "__main__":
    sys.stdin.buffer.read()  # returns when the command is gone
    end_marked(sys.argv[1])
