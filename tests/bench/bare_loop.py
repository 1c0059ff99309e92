"""The same model, loss and optimizer in a loop of a few lines: `python -m tests.bench.bare_loop SHARDS` prints images a second.

Without data loading, clipping, metrics and checkpoints: the least that training costs.
"""

import sys
import time

import torch

from tests.bench.rank import WARM_UP, timed_recipe
from vitseg.data.loader import Batches
from vitseg.data.manifest import read_manifest
from vitseg.labels import palette
from vitseg.losses import segmentation_loss
from vitseg.model.segmenter import build_model
from vitseg.training.optimizer import build_optimizers


def main(shards: str) -> None:
    recipe, manifest = timed_recipe(), read_manifest(shards)
    size, classes = recipe.data.batch_size, manifest.classes
    batches = list(Batches(shards, manifest, "train", batch_size=size).epoch(0))
    colors = torch.from_numpy(palette(classes))
    model = build_model(recipe.model, manifest.image_size, len(classes), seed=0)
    optimizers = build_optimizers(model, recipe.optimizer)
    for step, batch in enumerate(batches):
        if step == WARM_UP:
            start = time.perf_counter()
        loss, valid = segmentation_loss(model(batch.images), batch.labels, colors, recipe.model.target)
        (loss / valid).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    sys.stdout.write(f"{size * (len(batches) - WARM_UP) / (time.perf_counter() - start)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
