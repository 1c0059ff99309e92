"""Train one of the compared networks: `python -m tests.bench.networks SHARDS NAME SEED IMAGES FOLDER [KEY=VALUE …]`.

All have the same data, order, augmentation, batches, schedule and evaluator; network, target and optimizer differ.
Writes NAME-SEED.json (a row per validation: images seen, minutes, scores) and NAME-SEED.npy (the class ids of the
first validation photographs). Trains on a GPU if there is one; minutes are then wall-clock, else those of a CPU core.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.bench.patch_lines import PATCH, line_shares
from tests.bench.unet import UNet
from vitseg import dist
from vitseg.config import load_recipe
from vitseg.data.loader import Batches
from vitseg.data.manifest import Manifest, read_manifest
from vitseg.evaluation import evaluate_batches
from vitseg.model.segmenter import build_model
from vitseg.recipe import Recipe
from vitseg.storage import open_store
from vitseg.training.logger import TrainingLogger
from vitseg.training.loop import Trainer
from vitseg.training.objectives.segmentation import Segmentation
from vitseg.training.worker import batches_of

# Each has the optimizer that suits it best: Muon does not help the paper's decoder, and torch's takes no convolutions.
# Learning rates: the best of two to six by the training loss after one epoch of images half as large. That is 0.008 for the
# U-Net too, but on validation images of full size 0.0015 did better (mIoU 0.131 to 0.107 after an epoch): hence 0.002.
ADAMW = ["optimizer.name=adamw", "optimizer.weight_decay=0.0001", "model.stochastic_depth=0.0"]
PAPER = [
    *ADAMW, "optimizer.learning_rate=0.0007", "model.decoder=patch", "model.features_per_patch=128",
    "model.decoder_projection=128",
    "model.decoder_mlp_units=[512, 512]",
]  # fmt: skip
NETWORKS: dict[str, tuple[str, list[str]]] = {
    "paper-rgb": ("small", [*PAPER, "model.target=rgb"]),
    "paper-classes": ("small", PAPER),
    "small": ("small", []),
    "unet": ("small", [*ADAMW, "optimizer.learning_rate=0.002"]),
    "base": ("base", ["data.batch_size=16"]),
}
LONG = {"unet": ["optimizer.learning_rate=0.001"]}
"""What suits a network better in a long training: the best of 0.0005, 0.001 and 0.002 after 50 epochs of 600 images."""
COMPARED = ("paper-rgb", "paper-classes", "small", "unet")
SHORT = ["data.batch_size=8", "augment.scale=[1.0, 1.0]", "augment.color=0.0", "augment.rare=0.0"]
"""In so few epochs a network does not memorize photographs: only flips."""
LONG_EPOCHS = 10
POINTS = 25
"""Most points of a curve."""
SHOWN = 6


class Minutes(TrainingLogger):
    """Counts the time of training without its validations: CPU time, or on a GPU wall-clock time."""

    def __init__(self, name: str, batch_size: int, clock: Any) -> None:
        self.name, self.batch_size, self.clock = name, batch_size, clock
        self.spent, self.since = 0.0, clock()
        self.rows: list[dict[str, Any]] = []

    def log_step(self, step: int, values: dict[str, float]) -> None:
        now = self.clock()
        self.spent, self.since = self.spent + now - self.since, now

    def log_epoch(self, row: dict[str, Any]) -> None:
        self.since = self.clock()
        if "val/miou" not in row:
            return
        scores = {key.removeprefix("val/"): value for key, value in row.items() if key.startswith("val/")}
        done = {"images": row["step"] * self.batch_size, "minutes": round(self.spent / 60, 4)}
        self.rows.append(done | {"train_loss": row["train/loss"]} | scores)
        sys.stderr.write(
            f"{self.name}: {done['images']} images, {done['minutes']:.2f} min: mIoU {scores['miou']:.4f}\n"
        )


class TrainerWithoutCheckpoints(Trainer):
    """The training loop, without checkpoints."""

    def _save(self) -> None:
        """Write nothing."""


def train_network(shards: str, name: str, seed: int, images: int, folder: Path, extra: tuple[str, ...] = ()) -> None:
    """Train one network on about `images` images; write its curve and class ids."""
    manifest = read_manifest(shards)
    recipe = recipe_of(name, seed, round(images / manifest.splits["train"].samples), extra)
    world = dist.start()
    model = network(name, recipe, manifest).to(world.device)
    objective = Segmentation(model, recipe, manifest)
    data, validation = batches_of(shards, manifest, recipe, world)
    clock = time.perf_counter if world.device.type == "cuda" else time.process_time
    watch = Minutes(f"{name}-{seed}", recipe.data.batch_size, clock)
    with tempfile.TemporaryDirectory() as nothing:
        TrainerWithoutCheckpoints(objective, world, data, validation, open_store(nothing), watch).run()
    final = evaluate_batches(model, validation.epoch(0), objective.criterion, patches=(4, 8, 16)).to_json()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    result = {"name": name, "seed": seed, "parameters": parameters, "device": device_name(), "rows": watch.rows}
    result |= {"recipe": recipe.to_json(), "final": final}
    (folder / f"{name}-{seed}.json").write_text(json.dumps(result))
    if recipe.model.target == "classes" and min(manifest.image_size) % PATCH == 0:
        result["lines"] = line_shares(model, shards)
        (folder / f"{name}-{seed}.json").write_text(json.dumps(result))
    shown = Batches(shards, manifest, "val", batch_size=SHOWN, shuffle=False, drop_last=False)
    with torch.inference_mode():
        ids = objective.criterion.predict(model.eval()(next(iter(shown.epoch(0))).images.to(world.device)))
    np.save(folder / f"{name}-{seed}.npy", ids.cpu().numpy().astype(np.uint8))


def recipe_of(name: str, seed: int, epochs: int, extra: tuple[str, ...] = ()) -> Recipe:
    """Return a network's recipe: in a long training that of its preset, in a short one without augmentation."""
    preset, own = NETWORKS[name]
    epochs = max(1, epochs)
    own, settings = (own + LONG.get(name, []), []) if epochs >= LONG_EPOCHS else (own, SHORT)
    settings = [*settings, f"run.epochs={epochs}", f"run.seed={seed}", "run.log_steps=1", "run.panel_epochs=1000000"]
    return load_recipe(preset, overrides=[*settings, f"run.evaluate_epochs={-(-epochs // POINTS)}", *own, *extra])


def network(name: str, recipe: Recipe, manifest: Manifest) -> nn.Module:
    """Build an untrained network."""
    if name == "unet":
        torch.manual_seed(recipe.run.seed)
        return UNet(len(manifest.classes))
    return build_model(recipe.model, manifest.image_size, len(manifest.classes), recipe.run.seed)


def device_name() -> str:
    """Return the device whose minutes are counted."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "one core"


if __name__ == "__main__":
    torch.set_num_threads(1)
    train_network(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]), tuple(sys.argv[6:]))
