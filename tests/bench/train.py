"""What ranks give over threads, what the Trainer costs over a loop of a few lines, and what the processor is used for."""

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from tests.bench.measure import Figure, Side, compare, pack_scenes
from tests.bench.rank import WARM_UP, timed_recipe, train
from vitseg.data.loader import Batches
from vitseg.data.manifest import Manifest
from vitseg.dist import World
from vitseg.labels import palette
from vitseg.losses import segmentation_loss
from vitseg.model.segmenter import build_model
from vitseg.recipe import Recipe
from vitseg.training.optimiser import build_optimisers
from vitseg.training.throughput import matrix_rate, training_flops

STEPS = 64
FEW = 8
"""Steps of the larger preset."""


def figures(folder: Path) -> Iterator[Figure]:
    batch_size = timed_recipe().data.batch_size
    shards, manifest = pack_scenes(folder, train=STEPS * batch_size, val=8, side=96)
    yield compare(
        "train: images a second, 2 ranks of 1 thread / 1 rank of 2 threads",
        ranks(2, 1, shards, folder), ranks(1, 2, shards, folder), goal=1.0, better="higher", warm_up=False,
    )  # fmt: skip
    yield compare(
        "train: images a second, Trainer on shards / bare loop on tensors in memory",
        trainer(shards, manifest, folder), bare_loop(shards, manifest), goal=0.97, better="higher",
    )  # fmt: skip
    small = timed_recipe(preset="small")
    shards, manifest = pack_scenes(folder / "large", train=FEW * small.data.batch_size, val=8, side=256)
    yield compare(
        "train: FLOP/s of preset small at 256 × 256 / FLOP/s of large matrix products",
        computed(small, shards, manifest, folder), lambda: matrix_rate(torch.device("cpu"), seconds=2),
        goal=None, better="higher", warm_up=False,
    )  # fmt: skip


_NUMBERS = itertools.count()


def ranks(nproc: int, threads: int, shards: str, folder: Path) -> Side:
    """Return a side that trains in a process group of its own; what processes need to start is not counted."""
    return lambda: run_ranks(nproc, threads, shards, folder)[1]


def run_ranks(nproc: int, threads: int, shards: str, folder: Path) -> tuple[float, float]:
    """Train `tiny` for an epoch; return the share of it spent waiting for data, and images a second."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={nproc}"]
    command += ["--standalone", "--local-addr", "127.0.0.1"]
    command += ["-m", "tests.bench.rank", shards, str(folder / f"checkpoints-{next(_NUMBERS)}")]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    waited, rate = done.stdout.split()[-2:]
    return float(waited), float(rate)


def trainer(shards: str, manifest: Manifest, folder: Path) -> Side:
    def side() -> float:
        recipe, world = timed_recipe(), World(0, 1, torch.device("cpu"))
        watch = train(shards, manifest, recipe, folder / f"checkpoints-{next(_NUMBERS)}", world)
        return watch.rate(recipe.data.batch_size)

    return side


def computed(recipe: Recipe, shards: str, manifest: Manifest, folder: Path) -> Side:
    """Return a side that trains in this process and gives FLOP a second: three times the forward pass's an image."""
    flops = training_flops(recipe, manifest.image_size, len(manifest.classes))

    def side() -> float:
        world = World(0, 1, torch.device("cpu"))
        watch = train(shards, manifest, recipe, folder / f"checkpoints-{next(_NUMBERS)}", world)
        return flops * watch.rate(recipe.data.batch_size)

    return side


def bare_loop(shards: str, manifest: Manifest) -> Side:
    """Return a side that trains the same model with the same loss and optimiser: no data loading, clipping, metrics."""
    recipe = timed_recipe()
    size, classes = recipe.data.batch_size, manifest.classes
    batches = list(Batches(shards, manifest, "train", batch_size=size).epoch(0))
    colors = torch.from_numpy(palette(classes))

    def side() -> float:
        model = build_model(recipe.model, manifest.image_size, len(classes), seed=0)
        optimisers = build_optimisers(model, recipe.optimiser)
        for step, batch in enumerate(batches):
            if step == WARM_UP:
                start = time.perf_counter()
            loss, valid = segmentation_loss(model(batch.images), batch.labels, colors, recipe.model.target)
            (loss / valid).backward()
            for optimiser in optimisers:
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
        return size * (len(batches) - WARM_UP) / (time.perf_counter() - start)

    return side
