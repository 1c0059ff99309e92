"""Our decoder: tokens of finer patches decode overlapping squares of pixels, which are blended, so no seams show.

The decoder of the paper decodes each patch independently, so nothing makes neighbors agree at their border. Here each
token decodes a square of three times its side, and each pixel is a weighted mean of what the nine tokens around it give.

Shapes: B images of H×W pixels, P side of a patch, N patches, h×w tokens on a grid, D width of a token.
"""

import dataclasses

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vitseg.architecture import Architecture
from vitseg.model.blocks import Mlp, TransformerBlock, layer_norm
from vitseg.model.neighborhood_attention import NeighborhoodAttention, unfold_overlapping
from vitseg.model.patches import unpatchify

_MLP_RATIO = 2


class OverlapDecoder(nn.Module):
    """Features (B, N, features_per_patch) and original patches (B, N, P·P·3) -> pixels (B, channels, H, W).

    Features are spread over a grid of finer patches; the photograph's finer patches are reintroduced there; blocks of
    neighborhood attention follow; and each finer token decodes its pixels. Every step overlaps its neighbors.
    """

    def __init__(self, arch: Architecture, channels: int) -> None:
        super().__init__()
        self.patch_size = arch.patch_size
        self.fine_patch = arch.fine_patch or arch.patch_size
        width = arch.fine_width
        fine = dataclasses.replace(arch, mlp_units=(_MLP_RATIO * width, width), skip_projection=False)
        self.spread = OverlapLinear(arch.features_per_patch, width, arch.patch_size // self.fine_patch)
        self.projection = nn.Linear((2 * self.fine_patch) ** 2 * 3, arch.decoder_projection)
        self.mlp = Mlp(width + arch.decoder_projection, (*arch.decoder_mlp_units, width), arch.dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(fine, width, 1, NeighborhoodAttention(width, arch.fine_heads, arch.fine_radius))
            for _ in range(arch.fine_blocks)
        )
        self.norm = layer_norm(arch, width)
        self.narrow = nn.Linear(width, arch.narrow_width)
        self.head = OverlapLinear(arch.narrow_width, channels, self.fine_patch)

    def forward(self, features: Tensor, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """Decode the patches of a grid (rows, columns)."""
        spread = self.spread(rearrange(features, "b (h w) d -> b h w d", h=grid[0]))
        images = unpatchify(patches, grid, self.patch_size).movedim(1, -1)
        details = self.projection(unfold_overlapping(images, self.fine_patch).flatten(-2))
        tokens = spread + self.mlp(torch.cat((spread, details), dim=-1))
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.narrow(self.norm(tokens))).contiguous().movedim(-1, 1)


class OverlapLinear(nn.Linear):
    """Tokens on a grid (B, h, w, D) -> cells on a grid `side` times as fine (B, h·side, w·side, channels).

    Each token gives values for a square of three times `side`; a cell is the weighted mean of what the nine tokens
    around it give (overlap-add, torch's `fold`). The weights can be multiplied into the layer's matrix, so all this is
    one matrix product. With `side` 1 nothing overlaps: an ordinary linear layer.

    The weights are those of a quadratic B-spline (https://doi.org/10.1090/qam/15914), which sum to 1 and reach 0 without
    a kink. Other windows left traces in predictions: with a Hann window, class borders gathered at the borders of
    patches, because there one token outweighs the next; with a triangular one, where the squares end.
    """

    def __init__(self, width: int, channels: int, side: int) -> None:
        super().__init__(width, (9 if side > 1 else 1) * side**2 * channels)
        self.side, self.channels = side, channels

    def forward(self, tokens: Tensor) -> Tensor:
        """Compute the cells; beyond the border of the grid, its outermost tokens are repeated."""
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
    """Concatenate each token's 3×3 neighborhood, row by row: (B, h, w, D) -> (B, h, w, 9·D)."""
    height, width = grid.shape[1:3]
    padded = F.pad(grid.movedim(-1, 1), (1, 1, 1, 1), mode="replicate").movedim(1, -1)
    return torch.cat([padded[:, y : y + height, x : x + width] for y in range(3) for x in range(3)], dim=-1)


def _spline_weights(side: int, like: Tensor) -> Tensor:
    """Return the weights (9, side²) of nine tokens in the cells of the middle one; in each cell they sum to 1."""
    # Of each cell, its place in the patch: -0.5 to 0.5, from the middle.
    place = (torch.arange(side, device=like.device) + 0.5) / side - 0.5
    line = torch.stack(((0.5 - place) ** 2 / 2, 0.75 - place**2, (0.5 + place) ** 2 / 2))
    return torch.einsum("ap,bq->abpq", line, line).reshape(9, side**2).to(like)
