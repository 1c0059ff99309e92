"""Which target learns more from equally many images."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import torch

from tests.bench.measure import Figure, Side, compare, pack_scenes
from tests.bench.rank import timed_recipe, train
from vitseg.dist import World

SCENES = 96
EPOCHS = 4


def figures(folder: Path) -> Iterator[Figure]:
    shards, manifest = pack_scenes(folder, train=SCENES, val=24, side=64)

    def trained(target: str) -> Side:
        seeds = itertools.count()  # each round has its own, the same for both sides

        def side() -> float:
            seed = next(seeds)
            overrides = [f"run.epochs={EPOCHS}", f"run.evaluate_epochs={EPOCHS}", f"run.seed={seed}"]
            recipe = timed_recipe(*overrides, f"model.target={target}")
            checkpoints = folder / f"checkpoints-{target}-{seed}"
            scores = train(shards, manifest, recipe, checkpoints, World(0, 1, torch.device("cpu"))).scores
            return float(scores["val/miou"])

        return side

    yield compare(
        f"quality: validation mIoU after {SCENES * EPOCHS} images, target classes / rgb (tiny)",
        trained("classes"), trained("rgb"), goal=1.0, better="higher", warm_up=False,
    )  # fmt: skip
