"""The same model, loss and optimizer in a loop of a few lines, which prints images a second.

`python -m tests.bench.bare_loop SHARDS PRESET [KEY=VALUE …]`

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
from vitseg.precision import autocast, autocast_type
from vitseg.training.optimizer import build_optimizers


def main(shards: str, preset: str, *overrides: str) -> None:
    recipe, manifest = timed_recipe(*overrides, preset=preset), read_manifest(shards)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size, classes = recipe.data.batch_size, manifest.classes
    batches = list(Batches(shards, manifest, "train", batch_size=size).epoch(0))
    tensors = [(batch.images.to(device), batch.labels.to(device)) for batch in batches]
    colors = torch.from_numpy(palette(classes)).to(device)
    model = build_model(recipe.model, manifest.image_size, len(classes), seed=0).to(device)
    optimizers = build_optimizers(model, recipe.optimizer, autocast_type(recipe.run.precision, device))
    for step, (images, labels) in enumerate(tensors):
        if step == WARM_UP:
            start = time.perf_counter()
        with autocast(recipe.run.precision, device):
            output = model(images)
        loss, valid = segmentation_loss(output, labels, colors, recipe.model.target)
        (loss / valid).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    if device.type == "cuda":
        torch.cuda.synchronize()
    sys.stdout.write(f"{size * (len(batches) - WARM_UP) / (time.perf_counter() - start)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
