"""Server processes that outlive the command which started them, and the files and ports they need.

A process is known by a mark in its environment, which its children inherit. A pid alone proves nothing: after
a crash or a reboot it may belong to somebody else, and start times shift with the clock.
"""

import contextlib
import fcntl
import os
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import psutil

from vitseg.errors import VitsegError

MARK = "VITSEG_SERVER"
TELEMETRY_OFF = {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}
_GRPC_OFFSET = 10_000  # SeaweedFS serves gRPC this far above each of its ports
# With the offset these still are below 32768, where Linux begins to hand out ports to clients.
_PORTS = range(10_000, 22_000)


def clean_environment() -> dict[str, str]:
    """Return this process's environment without the user's own settings of these servers and clients."""
    foreign = ("AWS_", "MLFLOW_", "_MLFLOW_", "PREFECT_", "WEED_", "S3_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | TELEMETRY_OFF | {"PYTHONUNBUFFERED": "1", "NO_PROXY": "*", "no_proxy": "*"}


def start(
    command: list[str], *, mark: str, folder: Path, environment: dict[str, str], log: Path
) -> subprocess.Popen[bytes]:
    """Start a detached process group in `folder`; files it makes are readable by their owner only.

    The last log is kept as `NAME.log.1`, so that a restart does not hide why a server died.
    """
    if log.exists():
        log.replace(log.with_name(log.name + ".1"))
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**environment, MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o077,
        )
    # Reaps the process if it ends before we do; the thread ends with us, the server does not.
    threading.Thread(target=process.wait, daemon=True).start()
    return process


def is_alive(pid: int | None, mark: str) -> bool:
    """Tell whether `pid` is a running process that carries `mark`."""
    if pid is None:
        return False
    with contextlib.suppress(psutil.Error, OSError):
        return _carries(psutil.Process(pid), mark)
    return False


def stop(mark: str, patience: float = 8.0) -> list[int]:
    """End every process with this mark: SIGTERM, `patience` seconds, SIGKILL. Return the pids.

    SeaweedFS now and then waits half a minute for connections that idle: not worth waiting for, as what it (or
    SQLite) has acknowledged survives a SIGKILL.

    Raises:
        VitsegError: a process is still there 30 s after SIGKILL.
    """
    ended = found = _marked(mark)
    for process in found:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    deadline = time.monotonic() + patience
    while found and time.monotonic() < deadline:
        time.sleep(0.05)
        # Only what is left of the first round is watched; looking at all processes each time costs more.
        found = [process for process in found if is_alive(process.pid, mark)]
    while found := _marked(mark):  # also children that were born meanwhile
        if time.monotonic() > deadline + 30:
            raise VitsegError(f"process {found[0].pid} does not end, though it was killed")
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.05)
    return [process.pid for process in ended]


def free_ports(count: int, taken: Collection[int] = ()) -> list[int]:
    """Return loopback ports that are free now, together with the gRPC port above each."""
    found: list[int] = []
    first = secrets.randbelow(len(_PORTS))  # two stacks that start at the same moment should not meet
    for offset in range(len(_PORTS)):
        port = _PORTS[(first + offset) % len(_PORTS)]
        if len(found) == count:
            break
        if port not in taken and is_free(port):
            found.append(port)
    if len(found) < count:
        raise VitsegError(f"no {count} free ports between {_PORTS.start} and {_PORTS.stop} on 127.0.0.1")
    return found


def become_free(ports: Collection[int], patience: float = 2.0) -> bool:
    """Tell whether servers could listen on all these ports, now or in a moment: others only try them, too."""
    deadline = time.monotonic() + patience
    while not all(map(is_free, ports)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def is_free(port: int) -> bool:
    """Tell whether a server could listen on this loopback port and on its gRPC port."""
    for number in (port, port + _GRPC_OFFSET):
        with socket.socket() as probe:
            # As servers do: connections of the last server that linger (TIME_WAIT) are no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", number))
                probe.listen(1)
            except OSError:
                return False
    return True


@contextlib.contextmanager
def locked(path: Path, patience: float = 300.0, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold an exclusive lock on a file; it falls with the process, however that ends.

    Args:
        path: the file.
        patience: seconds.
        on_wait: called once if another process holds it.

    Raises:
        VitsegError: another process held it for longer than `patience` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience
    waiting = False
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waiting:
                    on_wait()
                waiting = True
                if time.monotonic() > deadline:
                    raise VitsegError(f"another command holds {path} for {patience:.0f} s now") from None
                time.sleep(0.1)
        yield


def last_line(log: Path) -> str:
    """Return the last line of a log that says something, cut to 300 characters."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        return lines[-1][:300] if lines else "(empty)"
    return "(missing)"


def _carries(process: psutil.Process, mark: str) -> bool:
    return process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if _carries(process, mark):
                found.append(process)
    return found
