"""The model of a job in this process: loaded once, onto the GPU that fewest processes have, and run on batches."""

import fcntl
import functools
import itertools
import math
import os
import threading
from collections.abc import Iterable
from io import FileIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vitseg.errors import DataError
from vitseg.inference.job import Job, ModelRef
from vitseg.model.bundle import Bundle, load_bundle
from vitseg.precision import FILE, Measure, Precision, autocast, choose, keep, kept, on_device
from vitseg.storage import Store
from vitseg.storage.atomic import lock

SHARES = 8
"""Processes that share a GPU, at most."""
_PIXELS = 2**22  # a forward pass on a GPU: fewer don't fill it
Moments = tuple[float, float] | None
"""Mean and standard deviation of the photograph that a window is cut from; None for whole photographs."""

_load_lock = threading.Lock()
_choose_lock = threading.Lock()
_held_locks: list[FileIO] = []  # the system gives them up when the process ends, however it ends


def load_once(model: ModelRef) -> Bundle:
    """Return the bundle of a job, loaded by the first caller onto this process's device; it must be the planned one."""
    with _load_lock:  # two threads would load it twice
        return _loaded(model)


@functools.lru_cache(maxsize=2)
def _loaded(model: ModelRef) -> Bundle:
    bundle = load_bundle(_folder(model))
    if bundle.sha256 != model.sha256:
        raise DataError(f"the model in {model.folder} has sha256 {bundle.sha256}, but {model.sha256} was planned")
    bundle.model.to(own_device())
    return bundle


def _folder(model: ModelRef) -> Path:
    """Return the bundle's folder on this machine, which may not be the one that planned."""
    folder = Path(model.folder)
    if model.version == "local" or folder.exists():
        return folder
    from vitseg.registry import versions  # MLflow takes a second to import, and most workers have the folder

    return versions.open_model(f"models:/{model.name}/{model.version}")[1]


@functools.cache
def own_device() -> torch.device:
    """Return the GPU that this process computes on from now on, the one that fewest others have, or the CPU."""
    count = torch.cuda.device_count()
    for share, index in itertools.product(range(SHARES), range(count)) if count > 1 else ():
        # By its own name: processes may number the GPUs that they see differently.
        if _lock_gpu(f"{torch.cuda.get_device_properties(index).uuid}{f'-{share}' if share else ''}"):
            return torch.device("cuda", index)
    return torch.device("cuda", os.getpid() % count) if count else torch.device("cpu")


def _lock_gpu(name: str) -> bool:
    """Lock a share of a GPU against all processes of this user, whichever folder they work in; return whether it was free."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitseg" / "gpus"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / name).open("ab", buffering=0)
    except OSError:
        return False  # nothing can be written there: processes then share GPUs by their ids
    if not lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
        file.close()
        return False
    _held_locks.append(file)
    return True


def job_precision(job: Job, dest: Store, measure: Measure) -> Precision:
    """Return what a job's masks are computed in: the first worker that asks chooses for all, and for later attempts."""
    with _choose_lock:  # two threads would measure each other
        chosen = kept(dest, job.file(FILE)) or keep(dest, job.file(FILE), choose(own_device(), measure))
    return on_device(chosen, own_device())


def default_batch(device: torch.device, image_size: tuple[int, int]) -> int:
    """Return the images a forward pass: 2 on a processor, whose cache more don't fit; on a GPU 4 million pixels."""
    return max(1, min(256, _PIXELS // math.prod(image_size))) if device.type == "cuda" else 2


def stack_planes(images: Iterable[np.ndarray]) -> Tensor:
    """Stack images uint8 (h, w, 3) of one size as a batch: uint8 (B, 3, h, w)."""
    return torch.from_numpy(np.stack(list(images))).permute(0, 3, 1, 2).contiguous()


def forward(
    bundle: Bundle,
    images: Tensor,
    device: torch.device,
    precision: Precision,
    *,
    flip: bool = False,
    moments: Moments = None,
) -> Tensor:
    """Return scores (B, K, h, w), or colors (B, 3, h, w), of images uint8 (B, 3, h, w) of the model's size.

    `flip`: the mean of these and of what the model makes of the mirrored images, mirrored back.
    """
    network = bundle.predict if bundle.classes else bundle.colors
    with autocast(precision.name, device):
        output = network(images, moments=moments)
        if flip:
            output = (output + network(images.flip(-1), moments=moments).flip(-1)) / 2
    return output
