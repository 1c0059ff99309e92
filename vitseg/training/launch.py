"""Starts the ranks of a job as one process group, passes on what they say, and never leaves one behind."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vitseg.checkpoint import SCRATCH
from vitseg.dist import MEETING_FILE
from vitseg.errors import RankLostError
from vitseg.training.agent import PARENT
from vitseg.training.nodes import Nodes
from vitseg.training.rank_events import heard
from vitseg.training.rank_failure import cause, ended_by
from vitseg.training.watchdog import NOTES, in_words, read_notes

_STOP_SECONDS = 20
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(4 * 2**30),
    "MALLOC_TRIM_THRESHOLD_": str(8 * 2**30),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}
"""For glibc, on processors: by default each large tensor's memory goes back to the system and comes again, page by page,
in every step; a quarter of the time of `small` on two cores went there."""


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
