"""A model with an exact rule: the class of a pixel is its strongest color channel."""

import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from vitseg.inference import chunk
from vitseg.inference import model as model_module
from vitseg.inference.job import ModelRef
from vitseg.inference.plan import plan_job
from vitseg.labels import Label

CLASSES = (
    Label("red", (200, 0, 0), 7, 0),
    Label("green", (0, 200, 0), 11, 1),
    Label("blue", (0, 0, 200), 26, 2),
)
SHA256 = "a" * 64
FOLDER = str(Path(__file__).parent)
"""Stands in for the folder of the bundle: it exists, and its content is not read."""


@dataclass
class ColorRule:
    """Stands in for a bundle."""

    image_size: tuple[int, int] = (8, 12)
    sha256: str = SHA256
    classes: tuple[Label, ...] = CLASSES
    delay: float = 0.0
    """Seconds a forward pass."""
    model: torch.nn.Module = field(default_factory=torch.nn.Identity)

    moments: list[tuple[float, float] | None] = field(default_factory=list)
    """The `moments` of each call."""

    def predict(self, images: torch.Tensor, moments: tuple[float, float] | None = None) -> torch.Tensor:
        self.moments.append(moments)
        assert images.dtype == torch.uint8
        assert tuple(images.shape[1:]) == (3, *self.image_size)
        time.sleep(self.delay)
        return images.float() / 25.5


def model(sha256: str = SHA256, version: str = "3") -> ModelRef:
    return ModelRef(name="streets", version=version, sha256=sha256, folder=FOLDER)


def segment_slowly(source: str, dest: str) -> None:
    """A whole job in a process of its own, slow enough to be killed in the middle."""
    rule = ColorRule(delay=0.02)
    model_module.load_bundle = lambda folder: rule
    job = plan_job(source, dest, model=model(), chunk_images=10, batch_size=3)
    for index in range(job.chunks):
        chunk.segment_chunk(job, index)
