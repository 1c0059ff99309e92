"""The embedded stack: S3, MLflow and Prefect servers on this machine, for users who have none.

State lies under `VITSEG_HOME/stack`: a folder for each server, `logs/`, `credentials.json`, and `state.json`,
which remembers ports and pids. The folder is closed to other users.
"""

import http.client
import json
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flows.stack import credentials, processes
from flows.stack.servers import REFUSED, SERVERS, Server, Site, weed
from vitseg import child_processes
from vitseg.errors import DataError, VitsegError
from vitseg.home import home

PATIENCE = 180.0
"""Seconds that a server may take until it answers; on a loaded machine Prefect's first start takes 30."""

Progress = Callable[[str, str], None]
"""Called with a server and what happened to it, from several threads."""


@dataclass(frozen=True)
class ServerStatus:
    """One server as it is now; `ready` means that it answers a signed-in request."""

    name: str
    url: str | None
    pid: int | None
    running: bool
    ready: bool
    log: str


@dataclass(frozen=True)
class StackStatus:
    """All servers, and where the credentials for them lie (not the credentials themselves)."""

    servers: tuple[ServerStatus, ...]
    credentials: str

    @property
    def ready(self) -> bool:
        """Return whether all servers answer."""
        return all(server.ready for server in self.servers)

    def to_json(self) -> dict[str, Any]:
        """Return plain data without secrets."""
        return {"ready": self.ready, **asdict(self)}


def folder() -> Path:
    """Return the folder of the stack."""
    return home() / "stack"


def read_state() -> dict[str, dict[str, Any]]:
    """Return for each server that was ever started its `ports`, and its `pid` (None after `down`).

    Raises:
        DataError: the file is damaged.
    """
    try:
        return json.loads((folder() / "state.json").read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        path = folder() / "state.json"
        raise DataError(f"{path} is damaged: remove it, then run `vitseg stack up`") from error


def is_running(name: str, record: dict[str, Any] | None) -> bool:
    """Return whether the process that `state.json` records for a server is alive and is ours."""
    return record is not None and child_processes.is_alive(record["pid"], _mark(name))


def up(progress: Progress = lambda name, event: None, servers: Sequence[str] = tuple(SERVERS)) -> StackStatus:
    """Start the servers that don't run, wait until all are ready, and return their status.

    Servers that answer are kept; dead ones come back on their old ports where these are still free. If one
    fails, those that this call started are stopped again.

    Of `servers`, `s3` alone is up in 2 s. MLflow needs it.

    Raises:
        UsageError: the SeaweedFS wheel is not installed.
        VitsegError: a server did not start; names its log and the last line of it.
    """
    weed()
    root = folder()
    for path in (root, root / "logs", *(root / name for name in SERVERS)):
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700)
    with processes.locked(root / "lock"):
        _Launch(root, progress).run([SERVERS[name] for name in SERVERS if name in servers])
    return status(known_ready=servers)


def down() -> list[str]:
    """Stop the servers; return the names of those that ran. Data and credentials stay."""
    root = folder()
    if not root.exists():
        return []
    with processes.locked(root / "lock"), ThreadPoolExecutor(len(SERVERS)) as pool:
        ended = dict(zip(SERVERS, pool.map(lambda name: child_processes.stop(_mark(name)), SERVERS), strict=True))
        state = {name: {**record, "pid": None} for name, record in read_state().items()}
        if state:
            _write_state(root, state)
    return [name for name, pids in ended.items() if pids]


def status(known_ready: Collection[str] = ()) -> StackStatus:
    """Look at each server: is its process alive, and does it answer with our credentials?"""
    root, state = folder(), read_state()
    found = []
    for name, server in SERVERS.items():
        record = state.get(name)
        if record is None or not is_running(name, record):
            found.append(ServerStatus(name, None, None, False, False, str(_log(root, name))))
            continue
        site = Site(root, {key: value["ports"] for key, value in state.items()}, credentials.read(root))
        ready = name in known_ready or _problem(server, site) is None
        found.append(ServerStatus(name, site.url(name), record["pid"], True, ready, str(_log(root, name))))
    return StackStatus(tuple(found), str(root / "credentials.json"))


class _Launch:
    """One `up`: its state while threads wait for the servers."""

    def __init__(self, root: Path, progress: Progress) -> None:
        self.root = root
        self.progress = progress
        self.state = read_state()
        self.secrets = credentials.read_or_make(root)
        self.lock = threading.Lock()
        self.given_up = threading.Event()
        self.started: list[str] = []

    def run(self, servers: list[Server]) -> None:
        alive = {server.name for server in servers if is_running(server.name, self.state.get(server.name))}
        for server in servers:
            if server.name not in alive:
                child_processes.stop(_mark(server.name))  # children that outlived their parent
        if self._assign_ports([server for server in servers if server.name not in alive]):
            alive.discard("mlflow")  # S3 moved: MLflow only knows its old address
        site = Site(self.root, {name: record["ports"] for name, record in self.state.items()}, self.secrets)
        try:
            with ThreadPoolExecutor(len(servers)) as pool:
                waits = [pool.submit(self._bring_up, it, site, it.name in alive) for it in servers]
                try:
                    for wait in as_completed(waits):
                        wait.result()
                except BaseException:
                    self.given_up.set()
                    raise
        except BaseException:
            for name in self.started:
                child_processes.stop(_mark(name))
                self._record(name, None)
            raise

    def _assign_ports(self, servers: Collection[Server]) -> bool:
        """Give ports to servers that are about to start; return whether a known S3 had to move."""
        moved = False
        for server in servers:
            old = self.state.get(server.name, {}).get("ports", {})
            if set(old) != set(server.ports) or not processes.become_free(old.values()):
                taken = {port for record in self.state.values() for port in record["ports"].values()}
                ports = processes.free_ports(len(server.ports), taken)
                self.state[server.name] = {"pid": None, "ports": dict(zip(server.ports, ports, strict=True))}
                moved |= server.name == "s3" and bool(old)
        return moved

    def _bring_up(self, server: Server, site: Site, alive: bool) -> None:
        name = server.name
        begin = time.monotonic()
        if alive:
            pid = self.state[name]["pid"]
            if self._wait(server, site, lambda: child_processes.is_alive(pid, _mark(name)), PATIENCE / 3) is None:
                self.progress(name, "runs already")
                return
        child_processes.stop(_mark(name))  # it hangs, or must learn where S3 went
        self.progress(name, "starting")
        server.prepare(site)
        with self.lock:
            if self.given_up.is_set():
                return
            self.started.append(name)
            process = processes.start(
                server.command(site),
                mark=_mark(name),
                folder=self.root / name,
                environment=processes.clean_environment() | server.environment(site),
                log=_log(self.root, name),
            )
        self._record(name, process.pid)
        problem = self._wait(server, site, lambda: process.poll() is None, PATIENCE)
        if problem is not None and not self.given_up.is_set():
            log = _log(self.root, name)
            raise VitsegError(
                f"the {name} server did not start: {problem}; {log} ends with: {processes.last_line(log)}"
            )
        if problem is None:
            server.settle(site)
            self.progress(name, f"ready at {site.url(name)} after {time.monotonic() - begin:.1f} s")

    def _wait(self, server: Server, site: Site, alive: Callable[[], bool], patience: float) -> str | None:
        """Poll until the server is ready (None), or return what is wrong with it."""
        deadline = time.monotonic() + patience
        while True:
            problem = _problem(server, site)
            if problem is None or problem == REFUSED:
                return problem
            if not alive():
                return "it ended"
            if time.monotonic() > deadline:
                return f"after {patience:.0f} s, {problem}"
            if self.given_up.wait(0.1):
                return "another server failed"

    def _record(self, name: str, pid: int | None) -> None:
        with self.lock:
            self.state[name]["pid"] = pid
            _write_state(self.root, self.state)


def _problem(server: Server, site: Site) -> str | None:
    try:
        return server.problem(site)
    except (OSError, http.client.HTTPException) as error:
        return f"it does not answer ({error})"


def _write_state(root: Path, state: dict[str, dict[str, Any]]) -> None:
    credentials.write_private(root / "state.json", json.dumps(state, indent=1).encode())


def _mark(name: str) -> str:
    return f"{folder().resolve()}:{name}"


def _log(root: Path, name: str) -> Path:
    return root / "logs" / f"{name}.log"
