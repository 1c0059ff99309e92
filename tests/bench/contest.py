"""One contender's training, watched: `python -m tests.bench.contest SHARDS NAME SEED IMAGES FOLDER`.

Same data, order, augmentation, batches, schedule and evaluator for all; network, target and optimiser differ.
What comes out: NAME-SEED.json (a row an epoch: images seen, minutes of one core, scores) and the class ids it gives
for the first validation photographs.
"""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.bench.unet import UNet
from vitseg.config import load_recipe
from vitseg.data.loader import Batches
from vitseg.data.manifest import Manifest, read_manifest
from vitseg.dist import World
from vitseg.evaluation import Task, evaluate_batches
from vitseg.labels import palette
from vitseg.model.segmenter import build_model
from vitseg.recipe import Recipe
from vitseg.storage import open_store
from vitseg.training.loop import Recorder, Trainer
from vitseg.training.worker import batches_of

# Each with the optimiser that suits it best: Muon does not help the paper's decoder, and torch's takes no convolutions.
# Learning rates: the best of two to six by the training loss after one epoch of images half as large. That is 0.008 for the
# U-Net too, but on validation images of full size 0.0015 did better (mIoU 0.131 to 0.107 after an epoch): hence 0.002.
ADAMW = "optimiser.name=adamw"
PAPER = [
    ADAMW, "optimiser.learning_rate=0.0007", "model.decoder=patch", "model.decoder_projection=128",
    "model.decoder_mlp_units=[512, 512]",
]  # fmt: skip
CONTENDERS = {
    "paper-rgb": [*PAPER, "model.target=rgb"],
    "paper-classes": PAPER,
    "small": [],
    "unet": [ADAMW, "optimiser.learning_rate=0.002"],
}
SHOWN = 6


class Minutes(Recorder):
    """Counts the processor time of training alone, without the validations."""

    def __init__(self, name: str, batch_size: int) -> None:
        self.name, self.batch_size = name, batch_size
        self.spent, self.since = 0.0, time.process_time()
        self.rows: list[dict[str, Any]] = []

    def step(self, step: int, values: dict[str, float]) -> None:
        now = time.process_time()
        self.spent, self.since = self.spent + now - self.since, now

    def epoch(self, row: dict[str, Any]) -> None:
        self.since = time.process_time()
        scores = {key.removeprefix("val/"): value for key, value in row.items() if key.startswith("val/")}
        done = {"images": row["step"] * self.batch_size, "minutes": round(self.spent / 60, 2)}
        self.rows.append(done | scores)
        sys.stderr.write(f"{self.name}: {done['images']} images, {done['minutes']} min: mIoU {scores['miou']:.4f}\n")


def contend(shards: str, name: str, seed: int, images: int, folder: Path) -> None:
    """Train one contender on about so many images and leave its curve and its masks."""
    manifest = read_manifest(shards)
    epochs = max(1, round(images / manifest.splits["train"].samples))
    # No augmentation but flips: nobody sees a photograph often enough to know it by heart.
    settings = ["augment.scale=[1.0, 1.0]", "augment.color=0.0", "augment.rare=0.0"]
    settings += [f"run.epochs={epochs}", f"run.seed={seed}", "run.log_steps=1", "run.checkpoint_steps=1000000"]
    recipe = load_recipe("small", overrides=["data.batch_size=8", *settings, *CONTENDERS[name]])
    model = network(name, recipe, manifest)
    task = Task(recipe.model.target, len(manifest.classes), torch.from_numpy(palette(manifest.classes)))
    world = World(0, 1, torch.device("cpu"))
    data, validation = batches_of(shards, manifest, recipe, world)
    watch = Minutes(f"{name}-{seed}", recipe.data.batch_size)
    shutil.rmtree(folder / f"checkpoints-{name}-{seed}", ignore_errors=True)  # the curve starts where training does
    checkpoints = open_store(str(folder / f"checkpoints-{name}-{seed}"))
    Trainer(recipe, world, model, task, data, validation, checkpoints, watch).run()
    final = evaluate_batches(model, validation.epoch(0), task, patches=(8, 16)).to_json()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    result = {"name": name, "seed": seed, "parameters": parameters, "rows": watch.rows, "final": final}
    (folder / f"{name}-{seed}.json").write_text(json.dumps(result))
    shown = Batches(shards, manifest, "val", batch_size=SHOWN, shuffle=False, drop_last=False)
    with torch.inference_mode():
        ids = task.predict(model.eval()(next(iter(shown.epoch(0))).images))
    np.save(folder / f"{name}-{seed}.npy", ids.numpy().astype(np.uint8))


def network(name: str, recipe: Recipe, manifest: Manifest) -> nn.Module:
    """Make an untrained contender."""
    if name == "unet":
        torch.manual_seed(recipe.run.seed)
        return UNet(len(manifest.classes))
    return build_model(recipe.model, manifest.image_size, len(manifest.classes), recipe.run.seed)


if __name__ == "__main__":
    torch.set_num_threads(1)
    contend(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
