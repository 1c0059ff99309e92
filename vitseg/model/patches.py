"""Images to patches and back, and the embedding of patches and their positions.

Other Vision Transformers (https://arxiv.org/abs/2010.11929) write cutting, flattening and projecting as one strided
convolution; here it is a reshape and a linear layer.

Shapes: B images of H×W pixels, P side of a patch, N = (H/P)·(W/P) patches, D width of a token.
"""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vitseg.architecture import Architecture
from vitseg.errors import UsageError


def patch_grid(image_size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Return the rows and columns of patches in an image of (H, W) pixels: (H/P, W/P).

    Raises:
        UsageError: a side is not a multiple of the patch size.
    """
    height, width = image_size
    if min(image_size) < 1 or height % patch_size or width % patch_size:
        fit = "x".join(map(str, reversed(nearest_size(image_size, patch_size))))
        raise UsageError(
            f"image size {width}x{height} is not a multiple of patch size {patch_size}: "
            f"preprocess with --size {fit}, or choose another model.patch_size"
        )
    return height // patch_size, width // patch_size


def nearest_size(image_size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Return the multiples of the patch size, at least 1, that are nearest to the sides of an image of (H, W) pixels."""
    height, width = (max(1, round(side / patch_size)) * patch_size for side in image_size)
    return height, width


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cut images to flattened patches in row-major order: (B, C, H, W) -> (B, N, P·P·C)."""
    return rearrange(images, "b c (h p1) (w p2) -> b (h w) (p1 p2 c)", p1=patch_size, p2=patch_size)


def unpatchify(patches: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """Join flattened patches to images, the inverse of `patchify`: (B, N, P·P·C) -> (B, C, H, W).

    The result is `channels_last` in memory: the channels of a pixel lie together, which makes a softmax and a loss
    over them fast.
    """
    height, width = grid
    pixels = rearrange(
        patches, "b (h w) (p1 p2 c) -> b (h p1) (w p2) c", h=height, w=width, p1=patch_size, p2=patch_size
    )
    return rearrange(pixels, "b h w c -> b c h w")


class PatchEmbedding(nn.Module):
    """Flattened patches (B, N, P·P·3) -> tokens (B, N, D).

    The projection of a patch and the learned embedding of its position are concatenated as in the paper (D is the
    sum of both widths), or added as in the original ViT (D is the width of the projection). For images of another
    size, the learned positions are interpolated. With rotary positions there are none here.
    """

    def __init__(self, arch: Architecture, grid: tuple[int, int]) -> None:
        super().__init__()
        self.concat = arch.position == "concat"
        self.grid = grid
        spatial = arch.spatial_embedding if self.concat else arch.encoder_projection
        self.projection = nn.Linear(arch.patch_size**2 * 3, arch.encoder_projection)
        learned = arch.position != "rotary"
        self.position = nn.Parameter(torch.empty(grid[0] * grid[1], spatial)) if learned else None
        self.width = arch.encoder_projection + (spatial if self.concat else 0)
        # On the meta device, torch would take a second to compute nothing.
        if self.position is not None and not self.position.is_meta:
            with torch.no_grad():
                self.position.copy_(sine_positions(grid, spatial))

    def forward(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """Embed the patches (B, N, P·P·3) of a grid (rows, columns) as tokens (B, N, D)."""
        projected = self.projection(patches)
        if self.position is None:
            return projected
        position = resample_positions(self.position, self.grid, grid).to(projected.dtype)
        if not self.concat:
            return projected + position
        return torch.cat((projected, position.expand(projected.shape[0], -1, -1)), dim=-1)


def sine_positions(grid: tuple[int, int], width: int) -> Tensor:
    """Return sines and cosines (N, width) of each patch's row and column, to initialize position embeddings with.

    From the usual random numbers of deviation 0.02 it takes hundreds of steps until a network tells above from
    below, which matters much in a street.
    """
    count = max(1, width // 4)  # frequencies an axis, from half a wave over the image to a wave over two patches
    table = torch.zeros(*grid, 4 * count)
    for axis, side in enumerate(grid):
        place = (torch.arange(side) + 0.5) / side
        highest = max(2.0, side / 2)
        angles = torch.pi * place[:, None] * highest ** (torch.arange(count) / max(1, count - 1))
        waves = torch.cat((angles.sin(), angles.cos()), dim=-1)
        table[..., 2 * axis * count : 2 * (axis + 1) * count] = waves[:, None] if axis == 0 else waves[None]
    return F.pad(table.flatten(0, 1), (0, max(0, width - 4 * count)))[:, :width]


def resample_positions(
    position: Tensor, old: tuple[int, int], new: tuple[int, int], *, antialias: bool = False
) -> Tensor:
    """Interpolate position embeddings (N, D) of one grid to another grid, bicubically as DeiT does.

    `antialias` smooths them where they become fewer.
    """
    if isinstance(new[0], int) and old == new:  # an export for any size has no numbers here yet
        return position
    table = rearrange(position.float(), "(h w) d -> 1 d h w", h=old[0])
    table = F.interpolate(table, size=new, mode="bicubic", align_corners=False, antialias=antialias)
    return rearrange(table, "1 d h w -> (h w) d").to(position.dtype)
