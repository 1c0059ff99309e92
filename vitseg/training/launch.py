"""Starts the ranks of a job as one process group, passes on what they say, and never leaves one behind."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from vitseg.errors import RankLostError, TrainingError, UsageError
from vitseg.training.agent import PARENT
from vitseg.training.events import heard

_STOP_SECONDS = 20


@dataclass(frozen=True)
class Nodes:
    """How many machines take part, how many ranks each runs, and where they meet (`host:port`)."""

    nproc: int = 1
    nnodes: int = 1
    rendezvous: str = ""

    def __post_init__(self) -> None:
        """Check that several machines have a place to meet."""
        if self.nproc < 1 or self.nnodes < 1:
            raise UsageError("--nproc and --nnodes are at least 1")
        if self.nnodes > 1 and not self.rendezvous:
            raise UsageError("--nnodes needs --rendezvous HOST:PORT: one address that every node reaches")

    def arguments(self, job_id: str) -> list[str]:
        """Return the options of `torch.distributed.run`. Restarts are the flow's business: from a checkpoint."""
        if self.nnodes == 1:
            place = ["--standalone", "--local-addr", "127.0.0.1"]
        else:
            place = ["--rdzv-backend", "c10d", "--rdzv-endpoint", self.rendezvous, "--rdzv-id", job_id]
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
        TrainingError: a rank failed and said why; the text is its own.
        RankLostError: a rank ended without a word.
    """
    job_id = job_folder.rstrip("/").rpartition("/")[2]
    command = [sys.executable, "-m", "vitseg.training.agent", *nodes.arguments(job_id)]
    command += ["-m", "vitseg.training.worker", job_folder]
    error = ""
    with _process_group(command, nodes.nproc) as process:
        for line in process.stdout or ():
            event = heard(line)
            if event is None:
                on_line(line.rstrip())
            elif event["event"] == "error":
                error = error or str(event["message"])
                on_line(error)
            else:
                on_event(event)
        code = process.wait()
    if error:
        raise TrainingError(error)
    if code != 0:
        raise RankLostError(f"a rank ended without a word (exit code {code}): its last lines are in the flow run's log")


@contextlib.contextmanager
def _process_group(command: list[str], nproc: int) -> Iterator[subprocess.Popen[str]]:
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // nproc))
    environment = {
        **os.environ,
        PARENT: str(os.getpid()),
        "OMP_NUM_THREADS": threads,
        "PYTHONUNBUFFERED": "1",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # a tracking server that is away must not hold up the ranks
        "TORCH_DISTRIBUTED_DEBUG": "OFF",
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
