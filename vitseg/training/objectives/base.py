"""The interface between the training loop and what is learned."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from vitseg.data.augment import augment
from vitseg.data.loader import Batch, Batches
from vitseg.data.manifest import Manifest
from vitseg.device_copy import to_device
from vitseg.precision import Name
from vitseg.recipe import Recipe
from vitseg.training.job import Job


class Objective(ABC):
    """A model and what it learns from a data set.

    Losses are sums over this rank's part of a batch. The loop divides them by the counts of the whole batch.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, manifest: Manifest) -> None:
        self.model, self.recipe, self.manifest = model, recipe, manifest

    @staticmethod
    @abstractmethod
    def build_model(recipe: Recipe, manifest: Manifest) -> nn.Module:
        """Make the untrained model on the CPU."""

    @staticmethod
    def fit_recipe(recipe: Recipe, manifest: Manifest) -> Recipe:
        """Return the recipe as a data set needs it.

        Raises:
            UsageError: this objective can't learn from it.
        """
        return recipe

    @staticmethod
    @abstractmethod
    def metric(manifest: Manifest) -> str:
        """Return the metric by which epochs are compared, as `val/miou`; a loss is better the lower it is."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def compute_in(self, precision: Name) -> None:
        """Train and validate in this precision from now on."""
        self.recipe = replace(self.recipe, run=replace(self.recipe.run, precision=precision))

    @property
    def graphable(self) -> bool:
        """Whether model and loss never wait for a GPU, so that a pass can be recorded."""
        return True

    def score(self, row: Mapping[str, Any]) -> float:
        """Return what an epoch's row is compared by; larger is better."""
        name = self.metric(self.manifest)
        return -float(row[name]) if name.endswith("loss") else float(row[name])

    @abstractmethod
    def flops_per_image(self) -> int:
        """Return the FLOP of one image in a training step."""

    @abstractmethod
    def inputs(self, batch: Batch, step: int, rows: Sequence[int]) -> tuple[Tensor, ...]:
        """Return augmented images uint8 (B, 3, H, W), their targets (B, …) and what `model_inputs` needs besides, on the device.

        The batch is this rank's; `rows` are its places in the global batch. `step` is the number of steps before this one.
        """

    @abstractmethod
    def counts(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return what divides the loss, and how many pixels have a class."""

    def blank_tokens(self, images: int) -> Tensor | None:
        """Return tokens as a batch of so many images brings them, where features are kept."""
        return None

    def model_inputs(self, images: Tensor, targets: Tensor, *more: Tensor) -> tuple[Tensor | None, ...]:
        """Return the arguments of the model in training."""
        return (images,)

    @abstractmethod
    def loss(self, output: Tensor, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of the loss, and how many pixels are predicted right."""

    @abstractmethod
    def validate(self, model: nn.Module, batches: Batches, on_batch: Callable[[], None]) -> dict[str, float]:
        """Return `val/*` metrics of a model over the validation batches of all ranks."""

    @abstractmethod
    def draw_panels(self, model: nn.Module, batch: Batch) -> Image.Image:
        """Draw validation images as a model in evaluation mode sees them, a row each."""

    @abstractmethod
    def export(self, job: Job, history: Sequence[Mapping[str, Any]]) -> None:
        """Write the trained model into the job's folder."""

    def augmented(self, images: Tensor, labels: Tensor, step: int, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Move images and labels to the device and change them as the recipe says."""
        images, labels = (to_device(part, self.device) for part in (images, labels))
        pixels = self.manifest.splits["train"].pixels_per_class
        return augment(images, labels, self.recipe.augment, pixels, seed=self.recipe.run.seed, step=step, rows=rows)
