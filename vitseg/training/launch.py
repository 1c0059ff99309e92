"""Starts the ranks of a job as one process group, passes on what they say, and never leaves one behind."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitseg.checkpoint import SCRATCH
from vitseg.dist import MEETING_FILE
from vitseg.errors import RankLostError, UsageError
from vitseg.training.agent import PARENT
from vitseg.training.events import heard
from vitseg.training.failure import cause, ended_by
from vitseg.training.network import interface_towards, split_address
from vitseg.training.watchdog import NOTES, in_words, read_notes

_STOP_SECONDS = 20
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(4 * 2**30),
    "MALLOC_TRIM_THRESHOLD_": str(8 * 2**30),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}
"""For glibc, on processors: by default each large tensor's memory goes back to the system and comes again, page by page,
in every step; a quarter of the time of `small` on two cores went there."""


@dataclass(frozen=True)
class Nodes:
    """How many machines take part, how many ranks each runs, and where they meet (`host:port`, on the first of them)."""

    nproc: int = 1
    nnodes: int = 1
    rendezvous: str = ""
    first: bool = True
    """Whether this machine is the one where they meet: rank 0, which tells how training goes, is there."""

    def __post_init__(self) -> None:
        """Check that several machines have a place to meet."""
        if self.nproc < 1 or self.nnodes < 1:
            raise UsageError("--nproc and --nnodes are at least 1")
        if self.nnodes > 1 and not self.rendezvous:
            raise UsageError("--nnodes needs --rendezvous HOST:PORT: one address that every node reaches")
        if self.nnodes > 1:
            try:
                split_address(self.rendezvous)
            except ValueError:
                raise UsageError(f"--rendezvous {self.rendezvous}: write HOST:PORT, as node-0:29400") from None

    def network(self) -> dict[str, str]:
        """Return the variables that keep the ranks of several machines to the network in which they meet.

        By themselves they may choose an interface that leads nowhere: that of what the machine's own name resolves to.
        """
        interface = interface_towards(split_address(self.rendezvous)[0]) if self.nnodes > 1 else None
        wanted = {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface and f"={interface}"}
        return {name: value for name, value in wanted.items() if value and not os.environ.get(name)}

    def arguments(self, job_id: str, meeting: str) -> list[str]:
        """Return the options of `torch.distributed.run`. Restarts are the flow's business: from a checkpoint.

        On one machine agent and ranks meet in files of the folder `meeting`: nothing listens for them.
        """
        if self.nnodes == 1:
            place = ["--rdzv-backend", "c10d", "--rdzv-conf", "store_type=file", "--local-addr", "127.0.0.1"]
            place += ["--rdzv-endpoint", f"{meeting}/agent", "--rdzv-id", job_id]
        else:
            place = ["--rdzv-backend", "c10d", "--rdzv-endpoint", self.rendezvous, "--rdzv-id", job_id]
            # Torch would guess from host names who is the first, and let the ranks meet at what this machine calls itself:
            # all must reach the rendezvous anyway. It numbers nodes in the order of their addresses; `~` comes last.
            place += ["--rdzv-conf", f"is_host={int(self.first)}"]
            place += ["--local-addr", split_address(self.rendezvous)[0] if self.first else f"~{socket.gethostname()}"]
        return [f"--nnodes={self.nnodes}", f"--nproc-per-node={self.nproc}", "--max-restarts=0", *place]


def run_ranks(
    job_folder: str,
    nodes: Nodes,
    *,
    on_event: Callable[[dict[str, Any]], None],
    on_line: Callable[[str], None],
) -> None:
    """Run a job's ranks to their end; events and other lines are handed on as they come.

    Raises:
        VitsegError: a rank failed and said why; kind and text are its own.
        RankLostError: a rank failed in a way that nobody expected, was killed, or hung.
    """
    job_id = job_folder.rstrip("/").rpartition("/")[2]
    told: list[dict[str, Any]] = []
    ended: list[tuple[int, int]] = []
    with tempfile.TemporaryDirectory() as meeting, _process_group(job_folder, nodes, job_id, meeting) as process:
        for line in process.stdout or ():
            event = heard(line)
            if event is None:
                on_line(line.rstrip())
            elif event["event"] == "error":
                told.append(event)
                on_line(f"rank {event['rank']}: {event['message']}\n{event['traceback'].rstrip()}")
            elif event["event"] == "ended":
                ended = [(rank, code) for rank, code in event["ranks"]]
            else:
                on_event(event)
        code = process.wait()
        notes = read_notes(Path(meeting), [event["rank"] for event in told if event["echo"]])
    for words in in_words(notes):
        on_line(words)
    if error := cause(told, ended, notes):
        raise error
    if code != 0:
        how = f"was {ended_by(-code)}" if code < 0 else f"failed (exit code {code})"
        raise RankLostError(f"the agent that starts the ranks {how}: its last lines are in the flow run's log")


@contextlib.contextmanager
def _process_group(job_folder: str, nodes: Nodes, job_id: str, meeting: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "vitseg.training.agent", *nodes.arguments(job_id, meeting)]
    command += ["-m", "vitseg.training.worker", job_folder]
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // nodes.nproc))
    alone = {
        MEETING_FILE: f"{meeting}/ranks",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # or the agent opens one for the ranks, on every interface
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
    }
    environment = {
        **os.environ,
        **(alone if nodes.nnodes == 1 and sys.platform == "linux" else {}),
        **nodes.network(),
        PARENT: str(os.getpid()),
        NOTES: meeting,
        SCRATCH: meeting,
        "OMP_NUM_THREADS": threads,
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",  # a rank that crashes in foreign code still says where
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # a tracking server that is away must not hold up the ranks:
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # nor one that does not answer
        "TORCH_DISTRIBUTED_DEBUG": "OFF",
        **{name: value for name, value in KEEP_MEMORY.items() if name not in os.environ},
    }
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        env=environment, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        raise
    finally:
        if process.stdout:
            process.stdout.close()
