"""What rank 0 shows of a pretraining: photo | what the encoder sees | what is drawn of the rest."""

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import nn

from vitseg.data.loader import Batch
from vitseg.evaluation import Task
from vitseg.model.masked_autoencoder import MaskedAutoencoder, normalize_patches, visible_patches
from vitseg.model.patches import patchify, unpatchify
from vitseg.pictures.panels import panel_sheet
from vitseg.recipe import Recipe
from vitseg.training.masked import VALIDATION
from vitseg.training.recorder import RunRecorder
from vitseg.training.throughput import Throughput

_COLUMN = 320  # pixels


class MaskedRecorder(RunRecorder):
    """Rank 0's recorder; its panels show photo | what the encoder sees | what is drawn of the rest."""

    def __init__(
        self, run_id: str, folder: str, shown: Batch, task: Task, recipe: Recipe, throughput: Throughput | None = None
    ) -> None:
        super().__init__(run_id, folder, shown, (), task, throughput)
        self.recipe = recipe

    def panels(self, model: nn.Module, epoch: int) -> None:
        """Store the panels of the fixed validation photographs."""
        assert isinstance(model, MaskedAutoencoder)
        self.metrics.log_picture(draw_panels(model, self.shown, self.recipe), f"panels/epoch-{epoch:04d}.png")


@torch.no_grad()
def draw_panels(model: MaskedAutoencoder, batch: Batch, recipe: Recipe) -> Image.Image:
    """Draw photo | visible patches | reconstruction, a row each.

    The loss is blind to the mean and contrast of a patch: those of hidden ones are the photograph's own.
    """
    device = model.mean.device
    images = batch.images.to(device)
    visible = visible_patches(batch.keys, model.patches, recipe.masked.ratio, seed=recipe.run.seed, step=VALIDATION).to(
        device
    )
    was_training = model.training
    model.eval()
    drawn = model(images, visible).float()
    model.train(was_training)
    size = model.architecture.patch_size
    patches, grid = patchify(images.float() / 255, size), model.grid
    _, mean, deviation = normalize_patches(patches)
    hidden = model.hidden(visible)[..., None]
    columns = (patches, patches.where(~hidden, 0.5), patches.where(~hidden, drawn * deviation + mean))
    pixels = [unpatchify(column, grid, size) for column in columns]
    table = rearrange(torch.stack(pixels), "column b c h w -> b h column w c").clamp(0, 1).mul(255).byte().cpu().numpy()
    gap = max(2, table.shape[3] // 40)
    white = np.pad(table, ((0, 0), (0, gap), (0, 0), (0, gap), (0, 0)), constant_values=255)
    rows = [Image.fromarray(row.reshape(row.shape[0], -1, 3)) for row in white]
    factor = max(1, _COLUMN // table.shape[3])
    rows = [row.resize((row.width * factor, row.height * factor), Image.Resampling.NEAREST) for row in rows]
    return panel_sheet(rows, title="photo | what the encoder sees | reconstruction")
