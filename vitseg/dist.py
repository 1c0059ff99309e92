"""The only module that uses `torch.distributed`; everything also works in a single process.

`torch.distributed.run` sets RANK, LOCAL_RANK and WORLD_SIZE; without them this is rank 0 of 1.
GPUs talk over NCCL, CPUs over gloo.
"""

import contextlib
import datetime
import functools
import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitseg.errors import RankLostError, UsageError

import torch.distributed as dist  # isort: skip


MEETING_FILE = "VITSEG_MEETING_FILE"
"""Environment variable: the file in which the ranks of one machine find each other."""
NOTES = "VITSEG_NOTES"
"""Environment variable: the folder in which each rank notes what it waits for; without it, it does not."""
_NOTE = "wait-of-rank-{}"
_NOTE_BYTES = 80


@dataclass(frozen=True)
class World:
    """This process's place among all: rank in 0 … world_size - 1, and the device it computes on."""

    rank: int
    world_size: int
    device: torch.device


def start(timeout_minutes: float = 10) -> World:
    """Join the other ranks and take this rank's device: `cuda:LOCAL_RANK` where there is one, else the CPU.

    No rank waits for another for longer than `timeout_minutes`.
    """
    rank = int(os.environ.get("RANK", "0"))
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if device.index >= torch.cuda.device_count():
            raise UsageError(f"{device.index + 1} ranks or more, but {torch.cuda.device_count()} GPUs: lower --nproc")
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    if world_size > 1:
        # On one machine ranks meet in a file: the TCP store of torch listens on every interface, without a password.
        meeting = os.environ.get(MEETING_FILE)
        by_file: dict[str, Any] = {"rank": rank, "world_size": world_size, "init_method": f"file://{meeting}"}
        backend = "nccl" if device.type == "cuda" else "gloo"
        timeout = datetime.timedelta(minutes=timeout_minutes)
        dist.init_process_group(backend, timeout=timeout, **(by_file if meeting else {}))
    return World(rank, world_size, device)


def stop() -> None:
    """Leave the other ranks in order."""
    if dist.is_initialized():
        with waiting_for("the end of all ranks"):
            dist.destroy_process_group()


@contextlib.contextmanager
def waiting_for(what: str) -> Iterator[None]:
    """Note that this rank waits for others within the block; if an error ends the block, the note stays.

    The launcher reads the note of a rank that hangs. It is in shared memory: to write it costs next to nothing, and it can be
    read whatever has become of this process.
    """
    if not dist.is_initialized():
        yield
        return
    note = _note()
    note[:] = what.encode().ljust(_NOTE_BYTES, b"\0")
    yield
    note[:] = bytes(_NOTE_BYTES)


@functools.cache
def _note() -> mmap.mmap:
    folder = os.environ.get(NOTES)
    if not folder:
        return mmap.mmap(-1, _NOTE_BYTES)
    with Path(folder, _NOTE.format(dist.get_rank())).open("w+b") as file:
        file.truncate(_NOTE_BYTES)
        return mmap.mmap(file.fileno(), _NOTE_BYTES)


def read_wait(folder: Path, rank: int) -> str:
    """Return what a rank waits for, or "" where it waits for none of the others."""
    note = folder / _NOTE.format(rank)
    return note.read_bytes().rstrip(b"\0").decode() if note.exists() else ""


def lost_a_peer(error: BaseException) -> bool:
    """Return whether an error came while this rank waited for others: it only echoes the failure of one of them."""
    waits = dist.is_initialized() and any(_note()[:])
    of_device = isinstance(error, torch.AcceleratorError)  # of this rank's own GPU, which is waited for as well
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and waits and not of_device)


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """Add up a tensor over all ranks, in place, and return it; every rank must call it."""
    if dist.is_initialized():
        with waiting_for("a sum over all ranks"):
            dist.all_reduce(tensor)
    return tensor


def gather(value: Any) -> list[Any]:
    """Return every rank's value, in the order of ranks, on every rank; plain data, for what is rare."""
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    with waiting_for("values of all ranks"):
        dist.all_gather_object(values, value)
    return values


def place() -> tuple[int, int]:
    """Return this process's rank and the number of ranks."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def gather_flat(mine: torch.Tensor, lengths: Sequence[int]) -> list[torch.Tensor]:
    """Return every rank's flat tensor (lengths[rank],), in the order of ranks, on every rank."""
    if len(lengths) == 1:
        return [mine]
    padded = mine.new_zeros(max(lengths))
    padded[: len(mine)] = mine
    found = [torch.empty_like(padded) for _ in lengths]
    with waiting_for("tensors of all ranks"):
        dist.all_gather([each.view(torch.uint8) for each in found], padded.view(torch.uint8))  # gloo knows few types
    return [each[:length] for each, length in zip(found, lengths, strict=True)]


def check_equal(value: int, what: str) -> None:
    """Stop all ranks where they don't hold the same value.

    Raises:
        RankLostError: they differ; starting again may mend it.
    """
    _, world_size = place()
    device = "cuda" if dist.is_initialized() and dist.get_backend() == "nccl" else "cpu"
    pair = sum_over_ranks(torch.tensor([value, value * value], dtype=torch.float64, device=device))
    total, squares = pair.tolist()
    if squares * world_size != total * total:  # no variance
        raise RankLostError(f"the ranks disagree about {what}: another process wrote to this job meanwhile")


def barrier() -> None:
    """Wait until every rank is here."""
    if dist.is_initialized():
        with waiting_for("all ranks"):
            dist.barrier()


def replicate(model: nn.Module, world: World) -> nn.Module:
    """Wrap a model so that its gradients are averaged over ranks during backward."""
    if world.world_size == 1:
        return model
    devices = [world.device.index] if world.device.type == "cuda" else None
    with waiting_for("the model of all ranks"):
        return nn.parallel.DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)


def copy_from_first(tensors: Iterable[torch.Tensor]) -> None:
    """Give tensors the values that they have on rank 0."""
    if dist.is_initialized():
        with waiting_for("the weights of rank 0"):
            for tensor in tensors:
                dist.broadcast(tensor, 0)


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add up gradients over ranks, in one message; the same parameters have one on every rank."""
    if dist.is_initialized():
        learning = [parameter for parameter in parameters if parameter.grad is not None]
        flat = sum_over_ranks(
            torch.cat([parameter.grad.flatten() for parameter in learning if parameter.grad is not None])
        )
        for parameter, summed in zip(learning, flat.split([each.numel() for each in learning]), strict=True):
            parameter.grad = summed.view_as(parameter)  # and no copy of each


def gradients_stay_local(model: nn.Module, enabled: bool) -> contextlib.AbstractContextManager[None]:
    """Leave out the averaging over ranks: for all but the last part of an accumulated batch."""
    if enabled and isinstance(model, nn.parallel.DistributedDataParallel):
        return model.no_sync()
    return contextlib.nullcontext()


def backward(loss: torch.Tensor) -> None:
    """Compute gradients; in the last part of a batch, they are averaged over ranks meanwhile."""
    with waiting_for("the gradients of all ranks"):
        loss.backward()


def read_numbers(tensor: torch.Tensor) -> list[float]:
    """Return a tensor (N,) as numbers; a GPU is waited for, and on it what the others contribute."""
    with waiting_for("the device, and what ranks compute together on it"):
        return tensor.tolist()


def run_agent(arguments: list[str]) -> dict[int, int]:
    """Be the agent of `torch.distributed.run` that starts this node's ranks and waits for them.

    Return the exit codes of ranks that failed, in the order in which they did; a signal's number below 0.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    try:
        main(arguments)
    except ChildFailedError as error:
        return {rank: failure.exitcode for rank, failure in error.failures.items()}
    return {}
