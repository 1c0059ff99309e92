"""Starts the ranks of a job, passes on their events and lines, and never leaves a rank behind."""

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vitseg import child_processes
from vitseg.checkpoint import SCRATCH
from vitseg.dist import MEETING_FILE, NOTES
from vitseg.errors import RankLostError
from vitseg.training.nodes import Nodes
from vitseg.training.rank_reports import cause, ended_by, parse_event
from vitseg.training.watchdog import describe, read_notes

_STOP_SECONDS = 20
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(4 * 2**30),
    "MALLOC_TRIM_THRESHOLD_": str(8 * 2**30),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}
"""For glibc, on processors: by default each large tensor's memory goes back to the system and comes again, page by page,
in every step, which took a quarter of the time of `small` on two cores."""


def run_ranks(
    job_folder: str,
    nodes: Nodes,
    *,
    on_event: Callable[[dict[str, Any]], None],
    on_line: Callable[[str], None],
) -> None:
    """Run a job's ranks to their end; pass on events and other lines as they come.

    Raises:
        VitsegError: a rank failed and reported why; class and message are its own.
        RankLostError: a rank failed in an unexpected way, was killed, or hung.
    """
    errors: list[dict[str, Any]] = []
    ended: list[tuple[int, int]] = []
    with tempfile.TemporaryDirectory() as meeting, _started(job_folder, nodes, meeting) as process:
        for line in process.stdout or ():
            event = parse_event(line)
            if event is None:
                on_line(line.rstrip())
            elif event["event"] == "error":
                errors.append(event)
                on_line(f"rank {event['rank']}: {event['message']}\n{event['traceback'].rstrip()}")
            elif event["event"] == "ended":
                ended = [(rank, code) for rank, code in event["ranks"]]
            else:
                on_event(event)
        code = process.wait()
        notes = read_notes(Path(meeting), [event["rank"] for event in errors if event["echo"]])
    for text in describe(notes):
        on_line(text)
    if error := cause(errors, ended, notes):
        raise error
    if code != 0:
        how = f"was {ended_by(-code)}" if code < 0 else f"failed (exit code {code})"
        raise RankLostError(f"the agent that starts the ranks {how}: its last lines are in the flow run's log")


def rank_environment(nproc: int) -> dict[str, str]:
    """Return the variables by which so many ranks share a machine's cores, and keep their memory."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // nproc))
    return {
        "OMP_NUM_THREADS": threads,
        **{name: value for name, value in KEEP_MEMORY.items() if name not in os.environ},
    }


def stop_ranks() -> None:
    """End all ranks that this process has started; their `run_ranks` then raises RankLostError."""
    child_processes.stop(_mark(), _STOP_SECONDS)


def _mark() -> str:
    return f"{child_processes.mark_children()}/ranks"


@contextlib.contextmanager
def _started(job_folder: str, nodes: Nodes, meeting: str) -> Iterator[subprocess.Popen[str]]:
    job_id = job_folder.rstrip("/").rpartition("/")[2]
    command = [sys.executable, "-m", "vitseg.training.agent", *nodes.arguments(job_id, meeting)]
    command += ["-m", "vitseg.training.worker", job_folder]
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
        NOTES: meeting,
        SCRATCH: meeting,
        **rank_environment(nodes.nproc),
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",  # a rank that crashes in foreign code still says where
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # a tracking server that is away must not hold up the ranks:
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # nor one that does not answer
        "TORCH_DISTRIBUTED_DEBUG": "OFF",
    }
    mark = f"{_mark()}/{secrets.token_hex(4)}"
    process = child_processes.start(
        command, mark, environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
    )  # fmt: skip

    def end_with_agent() -> None:
        process.wait()
        child_processes.stop(mark, 0)  # an agent that was killed leaves its ranks behind

    threading.Thread(target=end_with_agent, name="end-with-agent", daemon=True).start()
    try:
        yield process
    finally:
        child_processes.stop(mark, _STOP_SECONDS)
        if process.stdout:
            process.stdout.close()
