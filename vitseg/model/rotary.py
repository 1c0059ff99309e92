"""Rotary positions (https://arxiv.org/abs/2104.09864) of patches in two dimensions, by the convention of DINOv3.

Queries and keys are rotated by angles that are proportional to the row and column of their patch, so that their product
depends on how far apart two patches are, not on where they are. Nothing is learned, and no image size is special.

Reference: https://arxiv.org/abs/2508.10104, and `DINOv3ViTModel` of Hugging Face transformers.

Shapes: B images, N patches, V visible patches, h heads, d width of a head, a multiple of 4.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_BASE = 100.0  # periods go from 1, half an image, to nearly this


def rotation(
    grid: tuple[int, int], head_width: int, without_patch: int, like: Tensor, visible: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return what `rotate` takes: cosines and sines, each (N, d), for the patches of a grid (rows, columns).

    In masked pretraining, for the `visible` patches (B, V) alone: (B, 1, V, d). Tokens `without_patch` come first, with
    angle 0. Device and type are those of a tensor `like`. Everything is computed on that device: nothing is copied to it.
    """
    count = head_width // 4
    frequencies = torch.logspace(0, 1 / count - 1, count, base=_BASE, device=like.device)
    # Centers of patches in an image that reaches from -1 to 1, times 2π.
    rows, columns = (
        (2 * math.pi * ((2 * torch.arange(side, device=like.device) + 1) / side - 1))[:, None] * frequencies
        for side in grid
    )
    angles = torch.cat((rows[:, None].expand(*grid, -1), columns.expand(*grid, -1)), dim=-1).flatten(0, 1)
    if visible is not None:
        angles = angles[visible][:, None]
    angles = F.pad(angles, (0, 0, without_patch, 0))
    # The first half of a head is rotated by minus the second half, times the sine.
    signed = torch.cat((-angles, angles), dim=-1)
    return signed.cos().to(like.dtype), signed.sin().to(like.dtype)


def rotate(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate queries or keys (…, N, d): each number of the first half of a head with its partner in the second half."""
    return torch.addcmul(heads * cosines, heads.roll(heads.shape[-1] // 2, -1), sines)
