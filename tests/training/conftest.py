"""A model and batches small enough that an epoch takes a moment."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vitseg.config import RecipeLayers, load_layers, load_recipe
from vitseg.data.loader import Batches
from vitseg.data.manifest import read_manifest
from vitseg.dist import World
from vitseg.recipe import Recipe
from vitseg.storage import open_store
from vitseg.training.logger import TrainingLogger
from vitseg.training.loop import Trainer
from vitseg.training.objectives.segmentation import Segmentation

SMALL = [
    "model.encoder_projection=24", "model.blocks=1", "model.heads=2", "model.head_width=8", "model.mlp_units=[32]",
    "model.features_per_patch=16", "model.decoder=patch", "model.decoder_projection=16", "model.decoder_mlp_units=[32]",
    "data.batch_size=8", "run.epochs=3", "run.checkpoint_steps=2", "run.log_steps=1",
    "run.precision=float32",  # not to be measured
]  # fmt: skip

AUGMENT = ["augment.scale=[0.6, 2.0]", "augment.color=0.4", "augment.rare=0.5"]

MakeTrainer = Callable[..., Trainer]


def small_recipe(*overrides: str) -> Recipe:
    return load_recipe("tiny", overrides=[*SMALL, *overrides])


def small_layers(*overrides: str) -> RecipeLayers:
    return load_layers("tiny", overrides=[*SMALL, *overrides])


@pytest.fixture
def make_trainer(shards: str, tmp_path: Path) -> MakeTrainer:
    """Return a function that builds a one-process trainer with checkpoints under a name of the test's own."""

    def make(
        name: str,
        recipe: Recipe,
        logger: TrainingLogger | None = None,
        dtype: torch.dtype = torch.float32,
        **options: Any,
    ) -> Trainer:
        manifest = read_manifest(shards)
        size = recipe.data.batch_size
        return Trainer(
            Segmentation(Segmentation.build_model(recipe, manifest).to(dtype), recipe, manifest),
            World(0, 1, torch.device("cpu")),
            Batches(shards, manifest, "train", batch_size=size, flip=recipe.data.flip, seed=recipe.run.seed),
            Batches(shards, manifest, "val", batch_size=size, shuffle=False, drop_last=False),
            open_store(tmp_path / name),
            logger or TrainingLogger(),
            **options,
        )

    return make


class Power(TrainingLogger):
    """Fails at a step, as a power cut would, and remembers the reports before."""

    def __init__(self, cut: int = 10**9) -> None:
        self.cut = cut
        self.losses: dict[int, float] = {}
        self.used: list[float | None] = []
        self.rows: list[dict[str, Any]] = []
        self.panels_drawn: list[int] = []

    def log_step(self, step: int, values: dict[str, float]) -> None:
        if step == self.cut:
            raise KeyboardInterrupt
        self.losses[step] = values["loss"]
        self.used.append(values.get("time_used"))

    def log_epoch(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def log_panels(self, model: torch.nn.Module, epoch: int) -> None:
        self.panels_drawn.append(epoch)


class Weights(TrainingLogger):
    """Remembers the weights with which each epoch ended."""

    def __init__(self) -> None:
        self.at: dict[int, dict[str, torch.Tensor]] = {}
        self.trainer: Any = None

    def log_epoch(self, row: dict[str, Any]) -> None:
        self.at[row["epoch"]] = weights(self.trainer)


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


class Fading(Power):
    """Ruins the weights when a step has been taken, as a training that runs away would."""

    def __init__(self, trainer: Trainer, after: int) -> None:
        super().__init__()
        self.trainer, self.after = trainer, after

    def log_step(self, step: int, values: dict[str, float]) -> None:
        super().log_step(step, values)
        if step >= self.after:
            with torch.no_grad():
                for parameter in self.trainer.model.parameters():
                    parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step)))
