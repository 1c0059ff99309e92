"""Checkpoints in a folder or bucket: one safetensors object each, complete or not there at all.

Name: `step-{step:08d}-{first 12 hex of its sha256}.safetensors`. It holds the weights (`model.*`), their average and
those of the best epoch (`average.*`, `best.*`), the optimizers' moments (`optimizer.{which}.{parameter}.*`) and, as plain
JSON, everything else that resuming needs. No pickle.

It holds no state of a random generator: all that is random in a step is a function of (seed, step, rank). So a job also
goes on exactly on other machines.
"""

import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import nn

from vitseg.errors import DataError, StoreFullError
from vitseg.storage import Store

log = logging.getLogger(__name__)

SCRATCH = "VITSEG_SCRATCH"
"""Environment variable: the folder for files on their way to the store; without it, that of TMPDIR."""
_NAME = re.compile(r"step-\d{8}-[0-9a-f]{12}\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """Weights and optimizer moments by name, the number of finished steps, and plain data."""

    step: int
    tensors: dict[str, torch.Tensor]
    state: dict[str, Any]

    def part(self, name: str) -> dict[str, torch.Tensor]:
        """Return one set of weights by their own names, as `model`; empty where there is none of this name."""
        start = f"{name}."
        return {key.removeprefix(start): tensor for key, tensor in self.tensors.items() if key.startswith(start)}


def capture(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    step: int,
    state: dict[str, Any],
    more: Mapping[str, Mapping[str, torch.Tensor]] | None = None,
) -> Checkpoint:
    """Copy weights and moments to the CPU, so that training may go on while they are written.

    `more` are other sets of weights by the name of each, which `Checkpoint.part` gives back.
    """
    parts = {"model": model.state_dict(), **(more or {})}
    tensors = {f"{part}.{name}": tensor for part, weights in parts.items() for name, tensor in weights.items()}
    for which, optimizer in enumerate(optimizers):
        for index, moments in optimizer.state_dict()["state"].items():
            prefix = f"optimizer.{which}.{index}"
            tensors |= {f"{prefix}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    return Checkpoint(step, {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}, state)


def restore(checkpoint: Checkpoint, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Put a checkpoint's weights and moments back.

    Raises:
        DataError: the checkpoint belongs to another model.
    """
    moments: list[dict[int, dict[str, torch.Tensor]]] = [{} for _ in optimizers]
    try:
        for name, tensor in checkpoint.tensors.items():
            if name.startswith(("optimizer.", "optimiser.")):  # the latter in older ones
                _, which, index, moment = name.split(".")
                moments[int(which)].setdefault(int(index), {})[moment] = tensor
        model.load_state_dict(checkpoint.part("model"))
    except (RuntimeError, ValueError, IndexError) as error:
        raise DataError(f"checkpoint of step {checkpoint.step} does not fit this model: {error}") from error
    for optimizer, state in zip(optimizers, moments, strict=True):
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def write_checkpoint(store: Store, checkpoint: Checkpoint, keep: int) -> str:
    """Write a checkpoint, then remove all but the newest `keep`; return its key."""
    header = {"step": str(checkpoint.step), "state": json.dumps(checkpoint.state)}
    # By a file: what safetensors makes in memory it makes holding the interpreter, and training would wait for it.
    scratch = os.environ.get(SCRATCH)  # the launcher clears it: a rank that is killed can't
    try:
        with tempfile.TemporaryDirectory(prefix="vitseg-checkpoint-", dir=scratch) as folder:
            path = Path(folder) / "checkpoint"
            save_file(checkpoint.tensors, path, header)
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                file.seek(0)
                key = f"step-{checkpoint.step:08d}-{sha256[:12]}.safetensors"
                store.write(key, file)
    except (OSError, SafetensorError) as error:
        where = scratch or tempfile.gettempdir()
        raise StoreFullError(f"{where} has no room for a checkpoint ({error}): set TMPDIR to a larger disk") from error
    for old in checkpoint_keys(store)[keep:]:
        if old != key:  # it is not the newest where one that is damaged was passed over
            store.delete(old)
    return key


class CheckpointWriter:
    """Writes checkpoints beside training, one at a time; used as a block, at whose end the last of them is written."""

    def __init__(self, store: Store, keep: int) -> None:
        self._store, self._keep = store, keep
        self._pool = ThreadPoolExecutor(1, "checkpoints")
        self._under_way: Future[str] | None = None

    def put(self, checkpoint: Checkpoint) -> None:
        """Begin to write a checkpoint, as soon as the one before is written; raise the error which that one met."""
        self.wait()
        self._under_way = self._pool.submit(write_checkpoint, self._store, checkpoint, self._keep)

    def wait(self) -> None:
        """Wait until all is written; errors as in `put`."""
        under_way, self._under_way = self._under_way, None
        if under_way:
            under_way.result()

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            self.wait()
        except Exception as second:
            if error is None:
                raise
            # Of two errors that of the block counts.
            log.warning("the last checkpoint is not written: %s", second)
        finally:
            self._pool.shutdown()


def checkpoint_keys(store: Store) -> list[str]:
    """Return the keys of all checkpoints, newest first."""
    return sorted((info.key for info in store.list() if _NAME.fullmatch(info.key)), reverse=True)


def newest_checkpoint(store: Store) -> Checkpoint | None:
    """Read the newest checkpoint that is whole, or None; a damaged one is named in the log and passed over."""
    for key in checkpoint_keys(store):
        data = store.read(key)
        if f"-{hashlib.sha256(data).hexdigest()[:12]}." not in key:
            log.warning("checkpoint %s is damaged: going back to the one before", store.uri(key))
            continue
        try:
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
            return Checkpoint(int(header["step"]), load(data), json.loads(header["state"]))
        except (SafetensorError, KeyError, ValueError) as error:
            raise DataError(f"checkpoint {store.uri(key)} was not written by vitseg: {error}") from error
    return None
