"""Whether class borders gather anywhere in a patch: the seam ratio measures only the borders of patches, this every line.

Photographs are shifted under the grid of patches, so that their content (a horizon, a hood) averages out.
"""

import torch
from torch import nn

from vitseg.data.loader import Batches
from vitseg.data.manifest import read_manifest

PATCH = 16
"""Side of the patches, pixels; finer ones divide it."""
SHIFTS = range(0, PATCH, 3)


@torch.inference_mode()
def line_shares(model: nn.Module, shards: str, images: int = 50) -> list[list[float]]:
    """Return, for rows and columns, how often the class changes after each of a patch's lines, over the mean of all.

    Args:
        model: returns scores (B, K, H, W); switched to evaluation mode.
        shards: data set whose validation photographs are used.
        images: how many photographs.
    """
    device = next(model.parameters()).device
    batch = next(
        iter(Batches(shards, read_manifest(shards), "val", batch_size=images, shuffle=False, drop_last=False).epoch(0))
    )
    side = min(batch.images.shape[-2:]) - PATCH
    changes = torch.zeros(2, PATCH, dtype=torch.float64)
    model.eval()
    for shift in SHIFTS:
        cut = batch.images[:, :, shift : shift + side, shift : shift + side]
        ids = torch.cat([model(some.to(device)).argmax(1).cpu() for some in cut.split(25)])
        for axis in (1, 2):
            differ = ids.narrow(axis, 1, side - 1) != ids.narrow(axis, 0, side - 1)
            share = differ.double().mean((0, 3 - axis))[PATCH : side - PATCH]  # without the borders of the photograph
            changes[axis - 1] += share.view(-1, PATCH).sum(0)
    return (changes / changes.mean(1, keepdim=True).clamp(min=1e-12)).tolist()
