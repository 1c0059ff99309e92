"""What server processes need on this machine: environment, logs, locks, ports. `vitseg.child_processes` ends them."""

import contextlib
import itertools
import os
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from vitseg import child_processes
from vitseg.errors import VitsegError

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
    """Start a server in `folder` that outlives this process; only their owner may read the files that it makes.

    The last log is kept as `NAME.log.1`: a restart must not hide why a server ended.
    """
    if log.exists():
        log.replace(log.with_name(log.name + ".1"))
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb") as output:
        process = child_processes.start(
            command, mark, environment, cwd=folder, umask=0o077,
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    # Collects the exit code if the server ends before this process does.
    threading.Thread(target=process.wait, daemon=True).start()
    return process


def free_ports(count: int, taken: Collection[int] = ()) -> list[int]:
    """Return loopback ports that are free now, together with the gRPC port above each."""
    first = secrets.randbelow(len(_PORTS))  # two stacks that start at the same moment should try different ones
    ports = itertools.chain(_PORTS[first:], _PORTS[:first])
    found = list(itertools.islice((port for port in ports if port not in taken and is_free(port)), count))
    if len(found) < count:
        raise VitsegError(f"no {count} free ports between {_PORTS.start} and {_PORTS.stop} on 127.0.0.1")
    return found


def become_free(ports: Collection[int], patience: float = 2.0) -> bool:
    """Return whether servers can listen on all these ports, now or in a moment: others may only try them too."""
    deadline = time.monotonic() + patience
    while not all(map(is_free, ports)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def is_free(port: int) -> bool:
    """Return whether a server can listen on this loopback port and on its gRPC port."""
    for number in (port, port + _GRPC_OFFSET):
        with socket.socket() as probe:
            # As servers do: lingering connections of the last server (TIME_WAIT) must not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", number))
                probe.listen(1)
            except OSError:
                return False
    return True


@contextlib.contextmanager
def locked(path: Path, patience: float = 300.0, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold an exclusive lock on a file; it is released when this process ends, however that ends.

    `on_wait` is called once if another process holds it.

    Raises:
        VitsegError: that process held it for more than `patience` seconds.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        on_wait()
        try:
            held = lock.acquire(timeout=patience)
        except Timeout:
            raise VitsegError(f"another command holds {path} for {patience:.0f} s now") from None
    with held:
        yield


def last_line(log: Path) -> str:
    """Return the last line of a log that is not blank, cut to 300 characters."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        return lines[-1][:300] if lines else "(empty)"
    return "(missing)"
