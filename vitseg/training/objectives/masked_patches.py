"""Masked patches: an encoder learns from photographs without labels, by filling in patches that it does not see.

See `vitseg.model.masked_autoencoder` for the model and its paper.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor, nn

from vitseg import dist
from vitseg.architecture import require
from vitseg.data.loader import Batch, Batches
from vitseg.data.manifest import Manifest
from vitseg.device_copy import to_device
from vitseg.images.resize import resize_planes
from vitseg.model.encoder_bundle import pack_encoder
from vitseg.model.masked_autoencoder import MaskedAutoencoder, build_masked, normalize_patches, visible_patches
from vitseg.model.patches import nearest_size, patchify, unpatchify
from vitseg.pictures.panels import panel_sheet
from vitseg.precision import autocast
from vitseg.recipe import Recipe
from vitseg.storage import open_store
from vitseg.training.job import Job
from vitseg.training.objectives.base import Objective
from vitseg.training.progress import chosen_row
from vitseg.training.throughput import masked_flops

VALIDATION = 2**32
"""Stands for a step in validation, which always hides the same patches; no training takes so many."""
_COLUMN = 320  # pixels


class MaskedPatches(Objective):
    """What is hidden of a photograph; targets are the indices of the visible patches, int64 (B, V)."""

    model: MaskedAutoencoder

    @staticmethod
    def build_model(recipe: Recipe, manifest: Manifest) -> MaskedAutoencoder:
        """Make the untrained autoencoder."""
        size = nearest_size(manifest.image_size, recipe.model.patch_size)
        return build_masked(recipe.model, size, recipe.masked, recipe.run.seed)

    @staticmethod
    def fit_recipe(recipe: Recipe, manifest: Manifest) -> Recipe:
        """Refuse an encoder that does not learn."""
        require(recipe.model.encoder == "trained", "pretraining trains the encoder: leave out model.encoder")
        return recipe

    @staticmethod
    def metric(manifest: Manifest) -> str:
        """Return the loss: there is nothing else."""
        return "val/loss"

    def flops_per_image(self) -> int:
        """Return the FLOP of one photograph in a training step."""
        return masked_flops(self.recipe, self.model.image_size)

    def inputs(self, batch: Batch, step: int, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return augmented photographs, of the network's size, and their visible patches."""
        # The photographs stand in for their labels, which must not matter: not even for where crops lie.
        photos, _ = self.augmented(batch.images, batch.images, step, rows)
        return resize_planes(photos, self.model.image_size), self._visible(batch, step)

    def counts(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the number of hidden patches, and 0: no pixel has a class."""
        hidden = len(targets) * (self.model.patches - targets.shape[1])
        return targets.new_full((), hidden), targets.new_zeros(())

    def model_inputs(self, images: Tensor, targets: Tensor, *more: Tensor) -> tuple[Tensor | None, ...]:
        """Return photographs and visible patches."""
        return images, targets

    def loss(self, output: Tensor, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of the loss over hidden patches, and 0."""
        loss = self.model.loss(output, images, targets)
        return loss, torch.zeros_like(loss)

    @torch.no_grad()
    def validate(self, model: nn.Module, batches: Batches, on_batch: Callable[[], None]) -> dict[str, float]:
        """Return the mean loss over the hidden patches of the validation split."""
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        model.eval()
        for batch in batches.epoch(0):
            images, visible = self._photos(batch), self._visible(batch, VALIDATION)
            with autocast(self.recipe.run.precision, images.device):
                output = model(images, visible)
            loss, _ = self.loss(output, images, visible)
            sums += torch.stack([loss.double(), self.counts(visible)[0].double()])
            on_batch()
        model.train()
        loss_sum, hidden = dist.read_numbers(dist.sum_over_ranks(sums))
        return {"val/loss": loss_sum / max(1, hidden)}

    def draw_panels(self, model: nn.Module, batch: Batch) -> Image.Image:
        """Draw photo | visible patches | reconstruction.

        The loss is blind to the mean and contrast of a patch: hidden ones get those of the photograph.
        """
        images, visible = self._photos(batch), self._visible(batch, VALIDATION)
        drawn = model(images, visible).float()
        size, grid = self.model.architecture.patch_size, self.model.grid
        patches = patchify(images.float() / 255, size)
        _, mean, deviation = normalize_patches(patches)
        hidden = self.model.hidden(visible)[..., None]
        columns = (patches, patches.where(~hidden, 0.5), patches.where(~hidden, drawn * deviation + mean))
        pixels = torch.stack([unpatchify(column, grid, size) for column in columns])
        table = rearrange(pixels, "column b c h w -> b h column w c").clamp(0, 1).mul(255).byte().cpu().numpy()
        gap = max(2, table.shape[3] // 40)
        white = np.pad(table, ((0, 0), (0, gap), (0, 0), (0, gap), (0, 0)), constant_values=255)
        rows = [Image.fromarray(row.reshape(row.shape[0], -1, 3)) for row in white]
        factor = max(1, _COLUMN // table.shape[3])
        rows = [row.resize((row.width * factor, row.height * factor), Image.Resampling.NEAREST) for row in rows]
        return panel_sheet(rows, title="photo | what the encoder sees | reconstruction")

    def export(self, job: Job, history: Sequence[Mapping[str, Any]]) -> None:
        """Write the encoder; config.json last, for it makes the encoder exist."""
        facts = {"epochs": len(history), "loss": chosen_row(history)["val/loss"], "fingerprint": job.fingerprint}
        facts |= {"masked": job.recipe.to_json()["masked"], "run_id": job.run_id}
        facts |= {"origin": asdict(job.origin)} if job.origin.family else {}
        store = open_store(job.encoder)
        for name, content in pack_encoder(self.model.encoder_bundle(), facts).items():
            store.write(name, content)

    def _photos(self, batch: Batch) -> Tensor:
        return resize_planes(to_device(batch.images, self.device), self.model.image_size)

    def _visible(self, batch: Batch, step: int) -> Tensor:
        masked, seed = self.recipe.masked, self.recipe.run.seed
        return to_device(
            visible_patches(batch.keys, self.model.patches, masked.ratio, seed=seed, step=step), self.device
        )
