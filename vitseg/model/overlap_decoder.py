"""Our decoder: what tokens say overlaps and blends, so that no patch border shows, and edges follow finer patches.

The paper's decoder paints each patch by itself, so nothing makes two neighbors agree where they meet. Here every
token speaks about a square of three times its side, its neighbors speak about the same pixels, and what they say is
blended with weights that fall to zero at the edge of each square.
"""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vitseg.architecture import Architecture
from vitseg.model.blocks import Mlp, layer_norm
from vitseg.model.neighborhood_attention import NeighborhoodBlock, unfold_overlapping
from vitseg.model.patches import unpatchify


class OverlapDecoder(nn.Module):
    """Features (B, N, features_per_patch) and original patches (B, N, P·P·3) -> pixels (B, channels, H, W).

    Features are spread over a grid of finer patches, the finer patches of the photograph are reintroduced there,
    blocks of attention among neighbors let these agree, and every finer token writes pixels: all of it overlapping.
    """

    def __init__(self, arch: Architecture, channels: int) -> None:
        super().__init__()
        self.patch_size = arch.patch_size
        self.fine_patch = arch.fine_patch or arch.patch_size
        width = arch.fine_width
        self.spread = OverlapLinear(arch.features_per_patch, width, arch.patch_size // self.fine_patch)
        self.projection = nn.Linear((2 * self.fine_patch) ** 2 * 3, arch.decoder_projection)
        self.mlp = Mlp(width + arch.decoder_projection, (*arch.decoder_mlp_units, width), arch.dropout)
        self.blocks = nn.ModuleList(NeighborhoodBlock(arch) for _ in range(arch.fine_blocks))
        self.norm = layer_norm(arch, width)
        self.narrow = nn.Linear(width, arch.narrow_width)
        self.head = OverlapLinear(arch.narrow_width, channels, self.fine_patch)

    def forward(self, features: Tensor, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """Combine what is known about each patch with the photograph, at the finer grid."""
        spread = self.spread(rearrange(features, "b (h w) d -> b h w d", h=grid[0]))
        images = unpatchify(patches, grid, self.patch_size).movedim(1, -1)
        details = self.projection(unfold_overlapping(images, self.fine_patch).flatten(-2))
        tokens = spread + self.mlp(torch.cat((spread, details), dim=-1))
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.narrow(self.norm(tokens))).contiguous().movedim(-1, 1)


class OverlapLinear(nn.Linear):
    """Tokens on a grid (B, h, w, D) -> cells on a grid `side` times as fine (B, h·side, w·side, channels).

    Each token writes a square of three times `side`; a cell is the weighted mean of what the nine tokens around it say.
    The weights are those of a quadratic B-spline (https://doi.org/10.1090/qam/15914): they add up to 1, and from a token to
    another that says something else they change, taken over all patches, as fast at each line of a patch. So the place at
    which one outweighs the other is as likely to be any: with a Hann window it would gather at the border of patches. And
    they reach 0 without a kink. Straight lines do not: networks learned to say much where those made little of it, and
    class borders gathered where such squares ended, in the middle of patches.

    All this is one matrix product, because the weights can be multiplied into the matrix. With `side` 1 nothing
    overlaps: an ordinary linear layer.
    """

    def __init__(self, width: int, channels: int, side: int) -> None:
        super().__init__(width, (9 if side > 1 else 1) * side**2 * channels)
        self.side, self.channels = side, channels

    def forward(self, tokens: Tensor) -> Tensor:
        """Write cells; beyond the border, the outermost tokens are repeated."""
        if self.side == 1:
            return super().forward(tokens)
        weights = _spline_weights(self.side, self.weight)
        matrix = rearrange(self.weight, "(nine cells c) d -> nine cells c d", nine=9, c=self.channels)
        matrix = rearrange(matrix * weights[..., None, None], "nine cells c d -> (cells c) (nine d)")
        offsets = rearrange(self.bias, "(nine cells c) -> nine cells c", nine=9, c=self.channels)
        bias = (offsets * weights[..., None]).sum(0).flatten()
        cells = F.linear(_unfold_3x3(tokens), matrix, bias)
        return rearrange(cells, "b h w (p q c) -> b (h p) (w q) c", p=self.side, q=self.side)


def _unfold_3x3(grid: Tensor) -> Tensor:
    """Put each token's neighbors and itself side by side: (B, h, w, D) -> (B, h, w, 9·D), top left first, row by row."""
    height, width = grid.shape[1:3]
    padded = F.pad(grid.movedim(-1, 1), (1, 1, 1, 1), mode="replicate").movedim(1, -1)
    return torch.cat([padded[:, y : y + height, x : x + width] for y in range(3) for x in range(3)], dim=-1)


def _spline_weights(side: int, like: Tensor) -> Tensor:
    """Return weights (9, side²) of the nine tokens around a square of cells; in each cell they add up to 1."""
    place = (
        torch.arange(side, device=like.device) + 0.5
    ) / side - 0.5  # of a cell, from the middle of its patch, in patches
    line = torch.stack(((0.5 - place) ** 2 / 2, 0.75 - place**2, (0.5 + place) ** 2 / 2))
    return torch.einsum("ap,bq->abpq", line, line).reshape(9, side**2).to(like)
