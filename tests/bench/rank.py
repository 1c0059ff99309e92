"""One rank of a timed training: `python -m tests.bench.rank SHARDS FOLDER PRESET [KEY=VALUE …]`.

Rank 0 prints the share of the epoch for which it waited for data, and images a second.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

from vitseg import dist
from vitseg.config import load_recipe
from vitseg.data.manifest import Manifest, read_manifest
from vitseg.precision import choose, time_both
from vitseg.recipe import Recipe
from vitseg.storage import open_store
from vitseg.training.logger import TrainingLogger
from vitseg.training.loop import Trainer
from vitseg.training.objectives.segmentation import Segmentation
from vitseg.training.precision import training_pass
from vitseg.training.worker import batches_of

WARM_UP = 4
"""Steps at the start that don't count."""


class Stopwatch(TrainingLogger):
    """Records when each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.waited = 0.0

    def log_step(self, step: int, values: dict[str, float]) -> None:
        self.ends.append(time.perf_counter())
        self.waited = values["data_wait"]  # over the last steps: the whole epoch, because it is short

    def log_epoch(self, row: dict[str, Any]) -> None:
        self.scores = row

    def rate(self, batch_size: int) -> float:
        """Return images a second over the steps after the warm-up."""
        return batch_size * (len(self.ends) - WARM_UP) / (self.ends[-1] - self.ends[WARM_UP - 1])


def timed_recipe(*overrides: str, preset: str = "tiny") -> Recipe:
    """Return a preset for one epoch that logs every step and writes only the last checkpoint."""
    return load_recipe(preset, overrides=["run.epochs=1", "run.log_steps=1", "run.checkpoint_steps=100000", *overrides])


def train(shards: str, manifest: Manifest, recipe: Recipe, folder: Path, world: dist.World) -> Stopwatch:
    """Run the Trainer as a job does, without the tracking server."""
    objective = Segmentation(Segmentation.build_model(recipe, manifest).to(world.device), recipe, manifest)
    if recipe.run.precision == "auto":
        objective.compute_in(choose(world.device, lambda: time_both(training_pass(objective))).name)
    watch = Stopwatch()
    data, validation = batches_of(shards, manifest, recipe, world)
    Trainer(objective, world, data, validation, open_store(str(folder)), watch).run()
    return watch


def main(shards: str, folder: str, preset: str, *overrides: str) -> None:
    world = dist.start()
    recipe = timed_recipe(*overrides, preset=preset)
    watch = train(shards, read_manifest(shards), recipe, Path(folder), world)
    if world.rank == 0:
        sys.stdout.write(f"{watch.waited} {watch.rate(recipe.data.batch_size)}\n")
    dist.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # as `vitseg.training.worker` does: gloo's threads can meet the closing interpreter
