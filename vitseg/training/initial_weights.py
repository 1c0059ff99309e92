"""Weights that a training starts from (`--init`), fitted to the recipe, and kept with the job.

The fitted weights are `init.safetensors` in the job's folder, by the network's own names; every rank reads that file.
Its hash is part of the folder's name: the same command finds its job again as long as the address holds the same weights.
"""

import hashlib
from dataclasses import dataclass

import torch
from safetensors.torch import load, save

from vitseg.architecture import Architecture
from vitseg.errors import DataError, NotFoundError
from vitseg.labels import Label, logit_count
from vitseg.model.segmenter import Segmenter
from vitseg.storage import open_store
from vitseg.training.start import Start, named

FILE = "init.safetensors"


@dataclass(frozen=True)
class Initial:
    """Weights to start from: the content of `init.safetensors`, and what was taken, in words."""

    data: bytes
    taken: str

    @property
    def sha256(self) -> str:
        """Hash of the content: other weights make another job."""
        return hashlib.sha256(self.data).hexdigest()


def fit_initial(start: Start, arch: Architecture, image_size: tuple[int, int], classes: tuple[Label, ...]) -> Initial:
    """Fit weights to the network of a recipe, for images (H, W) and these classes (none: photographs without labels).

    Raises:
        UsageError: the weights are of another architecture; the message names the recipe's keys.
        DataError: they are damaged.
    """
    with torch.device("meta"):
        model = Segmenter(arch, image_size, logit_count(classes) or 1)
    wanted = model.state_dict()
    with named(start.address):
        taken = start.fit(model, classes)
        tensors = {name: value.detach().contiguous() for name, value in taken.tensors.items()}
        for name, tensor in tensors.items():
            if tensor.shape != wanted[name].shape:
                raise DataError(f"{name} is {tuple(tensor.shape)}, not {tuple(wanted[name].shape)}")
    return Initial(save(tensors), taken.taken)


def load_initial(model: torch.nn.Module, folder: str, sha256: str) -> None:
    """Put a job's `init.safetensors` into its network; what it does not hold stays as it is.

    Raises:
        DataError: the file is missing or not the one the job was planned with.
    """
    try:
        data = open_store(folder).read(FILE)
    except NotFoundError as error:
        raise DataError(f"{folder} lost its {FILE}: start again with --no-resume and the same --init") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DataError(f"{folder}/{FILE} is damaged: start again with --no-resume and the same --init")
    surplus = model.load_state_dict(load(data), strict=False).unexpected_keys
    assert not surplus, f"{FILE} holds {surplus}"
