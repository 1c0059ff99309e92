"""What all objects of a chunk share: the job, its stores and model, and the time that each stage took."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from vitseg.errors import UsageError
from vitseg.inference.job import Job
from vitseg.inference.model import own_device
from vitseg.masks import mask_ids
from vitseg.model.bundle import Bundle
from vitseg.precision import Precision
from vitseg.storage import Store, open_store

STAGES = ("check", "fetch", "decode", "forward", "encode", "write")
"""Is there a mask already? · read the object · image → model's input · model → class ids · PNG and pictures · write them."""


class Stopwatch:
    """Adds up seconds by stage, over all threads: their sum may exceed the clock's."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._lock = threading.Lock()

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Count the time of a block, also if it fails."""
        started = time.perf_counter()
        try:
            yield
        finally:
            passed = time.perf_counter() - started
            with self._lock:
                self.seconds[stage] += passed


@dataclass(frozen=True)
class ChunkContext:
    """What reading, predicting and writing need beside the object itself."""

    job: Job
    source: Store
    dest: Store
    bundle: Bundle
    numbers: np.ndarray  # uint8 (K,): train id -> id in the file
    palette: np.ndarray  # uint8 (256, 3)
    device: torch.device  # of the model
    precision: Precision  # of its forward passes
    fresh: bool = False  # the chunk was never begun before: only masks that planning saw can be there
    stopwatch: Stopwatch = field(default_factory=Stopwatch)


def chunk_context(job: Job, bundle: Bundle, dest: Store, precision: Precision, *, fresh: bool) -> ChunkContext:
    """Open the source of a job and choose the ids and colors of its masks; refuse those that its model doesn't have."""
    if not bundle.classes and (job.options.also or job.options.ids != "train"):
        raise UsageError(f"{job.model.name} has no classes, it makes images: leave out --also and --ids")
    numbers, palette = mask_ids(bundle.classes, job.options.ids)
    return ChunkContext(job, open_store(job.root), dest, bundle, numbers, palette, own_device(), precision, fresh)
