"""The device of a worker: with several GPUs on a machine, each process takes one that no other has."""

import fcntl
import functools
import os
from typing import IO

import torch

from vitseg.config import home

BATCH = {"cpu": 2, "cuda": 16}
"""Images a forward pass where nobody asks for another number: more don't fit a processor's cache, fewer don't fill a GPU."""

_held: list[IO[str]] = []  # the lock falls with the process, however that ends


@functools.cache
def own_device() -> torch.device:
    """Return the GPU that this process computes on from now on, or the CPU."""
    count = torch.cuda.device_count()
    for index in range(count) if count > 1 else ():
        folder = home() / "gpus"
        folder.mkdir(parents=True, exist_ok=True)
        # By its own name: processes may number the GPUs that they see differently.
        file = (folder / str(torch.cuda.get_device_properties(index).uuid)).open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            continue
        _held.append(file)
        return torch.device("cuda", index)
    return torch.device("cuda", os.getpid() % count) if count else torch.device("cpu")


def bf16(device: torch.device) -> bool:
    """Say whether a device computes with bfloat16 as fast as it can."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
