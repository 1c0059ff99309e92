"""Segmentation: photographs with labels, learned as classes (`model.target=classes`) or as colors (`rgb`)."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from vitseg.data.loader import Batch, Batches
from vitseg.data.manifest import Manifest
from vitseg.device_copy import to_device
from vitseg.errors import UsageError
from vitseg.evaluation import criterion_for, evaluate_batches
from vitseg.images.resize import resize_planes
from vitseg.labels import logit_count
from vitseg.losses import balanced_weights, valid_mask
from vitseg.model.bundle import FILES, save_bundle
from vitseg.model.patches import nearest_size
from vitseg.model.segmenter import Segmenter, build_model, scaled_to
from vitseg.pictures.panels import panel, panel_sheet
from vitseg.recipe import Recipe
from vitseg.storage import open_store
from vitseg.training.job import Job
from vitseg.training.objectives.base import Objective
from vitseg.training.throughput import training_flops


class Segmentation(Objective):
    """Every pixel's class or color; data sets of image pairs have colors alone."""

    model: Segmenter

    def __init__(self, model: nn.Module, recipe: Recipe, manifest: Manifest) -> None:
        super().__init__(model, recipe, manifest)
        balanced = recipe.loss.class_weights == "balanced"
        weights = balanced_weights(manifest.splits["train"].pixels_per_class) if balanced else None
        self.criterion = criterion_for(recipe.model.target, manifest.classes, self.device, recipe.loss, weights)

    @staticmethod
    def build_model(recipe: Recipe, manifest: Manifest) -> Segmenter:
        """Make the untrained network."""
        size = nearest_size(manifest.image_size, recipe.model.patch_size)
        return build_model(recipe.model, size, logit_count(manifest.classes), recipe.run.seed)

    @staticmethod
    def fit_recipe(recipe: Recipe, manifest: Manifest) -> Recipe:
        """Choose colors, and pixels that keep their brightness, for pairs of images."""
        if manifest.targets == "none":
            raise UsageError(
                "these shards hold photographs without labels: `vitseg pretrain` learns from them, and "
                "`vitseg train` on labeled ones starts from that with --init"
            )
        pairs = manifest.targets == "images"
        return replace(recipe, model=replace(recipe.model, target="rgb", pixels="fixed")) if pairs else recipe

    @staticmethod
    def metric(manifest: Manifest) -> str:
        """Return mIoU, or PSNR for pairs of images."""
        return "val/miou" if manifest.classes else "val/psnr"

    @property
    def graphable(self) -> bool:
        """The spiral decoder brings the order of patches to the device in each pass, which waits."""
        return not self.model.teacher_forcing

    def flops_per_image(self) -> int:
        """Return the FLOP of one image in a training step."""
        classes = logit_count(self.manifest.classes)
        return training_flops(self.recipe, self.model.image_size, classes, features=self.keeps_features)

    @property
    def keeps_features(self) -> bool:
        """Whether the encoder says the same of a photograph in each step."""
        changes = self.recipe.augment.color > 0 or self.recipe.augment.scale != (1.0, 1.0)
        return self.recipe.model.encoder == "frozen" and not changes

    def blank_tokens(self, images: int) -> Tensor | None:
        """Return zeros."""
        tokens = self.model.grid[0] * self.model.grid[1]
        return (
            torch.zeros(images, tokens, self.model.encoder.width, dtype=torch.float16) if self.keeps_features else None
        )

    def inputs(self, batch: Batch, step: int, rows: Sequence[int]) -> tuple[Tensor, ...]:
        """Return augmented images, of the network's size, labels, of the data's, and the encoder's tokens if they are known."""
        images, labels = self.augmented(batch.images, batch.labels, step, rows)
        known = () if batch.tokens is None else (to_device(batch.tokens, self.device),)
        return resize_planes(images, self.model.image_size), labels, *known

    def counts(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the number, or weight, of labeled pixels, and how many have a class."""
        labeled = valid_mask(targets).sum() if self.criterion.classes else targets.new_zeros(())
        return self.criterion.count(targets), labeled

    def model_inputs(self, images: Tensor, targets: Tensor, *more: Tensor) -> tuple[Tensor | None, ...]:
        """Return the images, the targets for a decoder trained by teacher forcing, and the tokens that are known.

        Loss and accuracy of such models look better in training than in validation.
        """
        forced = None
        if self.model.teacher_forcing:
            forced = scaled_to(self.criterion.teacher_targets(targets, self.model.channels), images)
        if more:
            return images, forced, None, *more
        return (images,) if forced is None else (images, forced)

    def loss(self, output: Tensor, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of the loss over labeled pixels, and how many have the right class."""
        output = scaled_to(output, targets)
        loss, _ = self.criterion.loss(output, targets)
        if not self.criterion.classes:
            return loss, torch.zeros_like(loss)
        with torch.no_grad():
            return loss, (self.criterion.predict(output) == targets).sum()

    def validate(self, model: nn.Module, batches: Batches, on_batch: Callable[[], None]) -> dict[str, float]:
        """Evaluate the model on the validation split."""
        evaluation = evaluate_batches(
            model, batches.epoch(0), self.criterion, lambda images: on_batch(),
            precision=self.recipe.run.precision, image_size=self.model.image_size,
        )  # fmt: skip
        return evaluation.flat("val/")

    def draw_panels(self, model: nn.Module, batch: Batch) -> Image.Image:
        """Draw photo | target | prediction."""
        images = resize_planes(batch.images.to(self.device), self.model.image_size)
        predictions = self.criterion.predict(scaled_to(model(images), batch.labels)).cpu()
        if not self.criterion.classes:
            predictions = (predictions.clamp(0, 1) * 255).round()
        rows = batch.pictures(predictions.to(torch.uint8))
        return panel_sheet([panel(*pictures, self.manifest.classes) for pictures in rows])

    def export(self, job: Job, history: Sequence[Mapping[str, Any]]) -> None:
        """Write the bundle."""
        store = open_store(job.folder)
        with tempfile.TemporaryDirectory() as temporary:
            origin = {"origin": asdict(job.origin)} if job.origin.family else {}
            save_bundle(Path(temporary), self.model, self.manifest.classes, extra=origin)
            for name in FILES:
                store.write(f"bundle/{name}", (Path(temporary) / name).read_bytes())
