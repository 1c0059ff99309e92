"""Checkpoints in a folder or bucket: one safetensors object each, complete or not there at all.

Name: `step-{step:08d}-{first 12 hex of its sha256}.safetensors`. It holds the weights (`model.*`), the optimiser's
moments (`optimiser.{which}.{parameter}.*`) and, as plain JSON, everything else that resuming needs. No pickle.
"""

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from vitseg.errors import DataError
from vitseg.storage import Store

log = logging.getLogger(__name__)

_NAME = re.compile(r"step-(\d{8})-([0-9a-f]{12})\.safetensors$")


@dataclass(frozen=True)
class Checkpoint:
    """Weights and optimiser moments by name, the number of finished steps, and plain data."""

    step: int
    tensors: dict[str, torch.Tensor]
    state: dict[str, Any]


def capture(
    model: nn.Module, optimisers: Sequence[torch.optim.Optimizer], step: int, state: dict[str, Any]
) -> Checkpoint:
    """Copy to the CPU what a training step has left, so that training may go on while it is written."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for which, optimiser in enumerate(optimisers):
        for index, moments in optimiser.state_dict()["state"].items():
            prefix = f"optimiser.{which}.{index}"
            tensors |= {f"{prefix}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    return Checkpoint(step, {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}, state)


def restore(checkpoint: Checkpoint, model: nn.Module, optimisers: Sequence[torch.optim.Optimizer]) -> None:
    """Put a checkpoint's weights and moments back.

    Raises:
        DataError: the checkpoint belongs to another model.
    """
    weights = {n.removeprefix("model."): t for n, t in checkpoint.tensors.items() if n.startswith("model.")}
    moments: list[dict[int, dict[str, torch.Tensor]]] = [{} for _ in optimisers]
    try:
        for name, tensor in checkpoint.tensors.items():
            if name.startswith("optimiser."):
                _, which, index, moment = name.split(".")
                moments[int(which)].setdefault(int(index), {})[moment] = tensor
        model.load_state_dict(weights)
    except (RuntimeError, ValueError, IndexError) as error:
        raise DataError(f"checkpoint of step {checkpoint.step} does not fit this model: {error}") from error
    for optimiser, state in zip(optimisers, moments, strict=True):
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def write_checkpoint(store: Store, checkpoint: Checkpoint, keep: int) -> str:
    """Write a checkpoint, then remove all but the newest `keep`; return its key."""
    data = save(checkpoint.tensors, {"step": str(checkpoint.step), "state": json.dumps(checkpoint.state)})
    key = f"step-{checkpoint.step:08d}-{hashlib.sha256(data).hexdigest()[:12]}.safetensors"
    store.write(key, data)
    for old in checkpoint_keys(store)[keep:]:
        if old != key:  # it is not the newest where one that is damaged was passed over
            store.delete(old)
    return key


def checkpoint_keys(store: Store) -> list[str]:
    """Return the keys of all checkpoints, newest first."""
    return sorted((info.key for info in store.list() if _NAME.fullmatch(info.key)), reverse=True)


def newest_checkpoint(store: Store) -> Checkpoint | None:
    """Read the newest checkpoint that is whole, or None; a damaged one is named in the log and passed over."""
    for key in checkpoint_keys(store):
        data = store.read(key)
        match = _NAME.fullmatch(key)
        if match is None or hashlib.sha256(data).hexdigest()[:12] != match[2]:
            log.warning("checkpoint %s is damaged: going back to the one before", store.uri(key))
            continue
        try:
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
            return Checkpoint(int(header["step"]), load(data), json.loads(header["state"]))
        except (SafetensorError, KeyError, ValueError) as error:
            raise DataError(f"checkpoint {store.uri(key)} was not written by vitseg: {error}") from error
    return None
