"""The other nodes of a training that runs as a deployment: runs of `train-node`, made anew for each attempt.

Each takes a worker of its own. They end with the attempt that requested them, however that ends; and where one of them is
gone, or the run that requested it, the ranks that still wait for it are stopped.
"""

import contextlib
import contextvars
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling, Crashed

from flows.display.console import note, pluralize
from vitseg.errors import RankLostError, TrainingError, UsageError
from vitseg.training.job import Job
from vitseg.training.launch import stop_ranks
from vitseg.training.nodes import Nodes, address_towards

DEPLOYMENT = "train-node/train-node"
ADDRESS = "VITSEG_NODE_ADDRESS"
"""Environment variable: the name or address that other nodes reach this one at, where it can't be guessed."""
_LOOK_SECONDS = 2
_NOTE_SECONDS = 60
_WATCH_SECONDS = 5
_GRACE_SECONDS = 5  # that nodes get to end by themselves after a failure, and after the last step:
_LAST_GRACE_SECONDS = 60


def meeting_place() -> str:
    """Return `host:port` on this machine for the nodes of a training; nothing listens there yet.

    The address is the one that this machine reaches the Prefect server from, as the other nodes do, so it is known to work.

    Raises:
        UsageError: VITSEG_NODE_ADDRESS is not an address of this machine, or there is none to be guessed.
    """
    host = os.environ.get(ADDRESS, "")
    try:
        host = host or address_towards(urlsplit(os.environ.get("PREFECT_API_URL", "")).hostname or "localhost")
        family, kind, protocol, _, place = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(place)
            port = probe.getsockname()[1]
    except OSError as error:
        raise UsageError(
            f"other nodes can't reach this one at {host or 'any address'} ({error}): set {ADDRESS} to one of its own"
        ) from error
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextlib.contextmanager
def other_nodes(job: Job, nodes: Nodes, minutes: float) -> Iterator[None]:
    """Run the block while all other nodes of a training work; they have ended, or are cancelled, when it ends.

    They read the job from its folder, and may wait so many minutes for workers.

    Raises:
        UsageError: the server knows no such deployment.
        TrainingError: there was no worker for one of them in time.
        RankLostError: one of them ended before all were there.
    """
    runs: list[UUID] = []
    with get_client(sync_client=True) as client:
        try:
            for _ in range(nodes.nnodes - 1):
                runs.append(_start_node(job, nodes, minutes))
            _wait_for_workers(client, runs, minutes)
            with ranks_end_with(runs):
                yield
        except Exception:
            _end(client, runs, _GRACE_SECONDS)
            raise
        except BaseException:  # cancelled: no time to wait
            _end(client, runs, 0)
            raise
        _end(client, runs, _LAST_GRACE_SECONDS)


def _start_node(job: Job, nodes: Nodes, minutes: float) -> UUID:
    parameters = {
        "shards": job.shards, "job": job.folder, "minutes": minutes,
        "nproc": nodes.nproc, "nnodes": nodes.nnodes, "rendezvous": nodes.rendezvous,
    }  # fmt: skip
    try:
        return run_deployment(DEPLOYMENT, parameters=parameters, timeout=0).id  # type: ignore[union-attr]
    except ObjectNotFound as error:
        raise UsageError(
            f"the Prefect server knows no deployment {DEPLOYMENT}: `vitseg deploy` registers it"
        ) from error


def _wait_for_workers(client: SyncPrefectClient, runs: Sequence[UUID], minutes: float) -> None:
    start, notes = time.monotonic(), 0
    while True:
        found = [_read(client, run) for run in runs]
        for run in found:
            if run.state and run.state.is_final():
                raise RankLostError(f"a node ended before the training began: {_outcome(run)}")
        waiting = sum(not (run.state and run.state.is_running()) for run in found)
        if not waiting:
            return
        waited = time.monotonic() - start
        if waited > 60 * minutes:
            raise TrainingError(
                f"{pluralize(waiting, 'node')} of {len(runs) + 1} found no worker in {minutes:g} minutes: each node needs a free "
                f"worker of its own on the pool of {DEPLOYMENT}; started again, the training goes on from where it was"
            )
        if waited >= notes * _NOTE_SECONDS:
            notes += 1
            pools = ", ".join(sorted({str(run.work_pool_name) for run in found}))
            note(f"waiting for {pluralize(waiting, 'node')}: each takes a free worker on pool {pools}")
        time.sleep(_LOOK_SECONDS)


@contextlib.contextmanager
def ranks_end_with(runs: Sequence[UUID]) -> Iterator[None]:
    """Stop the ranks of this machine, while the block runs, if one of these flow runs fails, crashes or is cancelled.

    Ranks notice themselves when the connection to another breaks. But a machine that is gone breaks none, and so may what
    NCCL does on a GPU.
    """
    if not runs:
        yield
        return
    over = threading.Event()

    def watch() -> None:
        with get_client(sync_client=True) as client:
            while not over.wait(_WATCH_SECONDS):
                with contextlib.suppress(httpx.HTTPError):  # the training does not need the server
                    found = [_read(client, run) for run in runs]
                    ended = [
                        run for run in found if run.state and run.state.is_final() and not run.state.is_completed()
                    ]
                    if ended and not over.is_set():
                        note(f"this node's ranks are stopped, for another one has ended: {_outcome(ended[0])}")
                        stop_ranks()
                        return

    thread = threading.Thread(target=contextvars.copy_context().run, args=(watch,), name="other-nodes", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _read(client: SyncPrefectClient, run: UUID) -> FlowRun:
    """Return a flow run; a deleted one counts as crashed."""
    try:
        return client.read_flow_run(run)
    except ObjectNotFound:
        return FlowRun(id=run, flow_id=run, name=f"run {run}", state=Crashed(message="it was deleted"))


def has_ended(run: str | None) -> bool:
    """Return whether a flow run has ended in any way; False where the server can't be reached."""
    if run is None:
        return False
    with contextlib.suppress(httpx.HTTPError), get_client(sync_client=True) as client:
        state = _read(client, UUID(run)).state
        return state is not None and state.is_final()
    return False


def _end(client: SyncPrefectClient, runs: Sequence[UUID], seconds: float) -> None:
    """Let nodes end by themselves, report those that failed, and cancel the others: a worker ends them, or never starts them."""
    try:
        left = _left(client, runs, seconds)
        for run in left:
            client.set_flow_run_state(run, Cancelling(message="the training that asked for this node has ended"))
    except httpx.HTTPError as error:  # it must not hide how the training ended; the nodes notice by themselves
        note(f"the other nodes can't be cancelled now that this training has ended ({type(error).__name__})")


def _left(client: SyncPrefectClient, runs: Sequence[UUID], seconds: float) -> list[UUID]:
    """Return the runs that have not ended in time."""
    left, deadline = list(runs), time.monotonic() + seconds
    while True:
        for run in [_read(client, one) for one in left]:
            if run.state and run.state.is_final():
                left.remove(run.id)
                if not run.state.is_completed():
                    note(f"a node has ended: {_outcome(run)}")
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(_LOOK_SECONDS / 4)


def _outcome(run: FlowRun) -> str:
    said = " ".join((run.state.message or "").split()) if run.state else ""
    return f"{run.name} {run.state.name if run.state else ''} ({said})".replace(" ()", "")
