"""The device of a worker: with several GPUs on a machine, each process takes one that no other has."""

import fcntl
import functools
import os
from pathlib import Path
from typing import IO

import torch

BATCH = {"cpu": 2, "cuda": 16}
"""Images a forward pass where nobody asks for another number: more don't fit a processor's cache, fewer don't fill a GPU."""

_held: list[IO[str]] = []  # the lock falls with the process, however that ends


@functools.cache
def own_device() -> torch.device:
    """Return the GPU that this process computes on from now on, or the CPU."""
    count = torch.cuda.device_count()
    for index in range(count) if count > 1 else ():
        # By its own name: processes may number the GPUs that they see differently.
        if _take(str(torch.cuda.get_device_properties(index).uuid)):
            return torch.device("cuda", index)
    return torch.device("cuda", os.getpid() % count) if count else torch.device("cpu")


def _take(name: str) -> bool:
    """Take a GPU, if nobody of this user has it, from whichever folder they work."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitseg" / "gpus"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / name).open("a")
    except OSError:
        return False  # nothing can be written there: then they share by chance
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return False
    _held.append(file)
    return True


@functools.cache
def bf16(device: torch.device) -> bool:
    """Say whether a device has instructions for bfloat16: GPUs since 2020, some processors (twice as fast there)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        words = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return torch.backends.mkldnn.is_available() and bool({"avx512_bf16", "amx_bf16"} & set(words))
