"""Our decoder: what tokens say overlaps and blends, so that no patch border shows, and edges follow finer patches.

The paper's decoder paints each patch by itself, so nothing makes two neighbours agree where they meet. Here every
token speaks about a square of twice its side, its neighbours speak about the same pixels, and what they say is
blended with weights that fall to zero at the edge of each square.
"""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vitseg.model.blocks import Mlp, layer_norm
from vitseg.model.neighbours import NeighbourhoodBlock, squares
from vitseg.model.patches import unpatchify
from vitseg.recipe import Architecture


class OverlapDecoder(nn.Module):
    """Features (B, N, features_per_patch) and original patches (B, N, P·P·3) -> pixels (B, channels, H, W).

    Features are spread over a grid of finer patches, the finer patches of the photograph are reintroduced there,
    blocks of attention among neighbours let these agree, and every finer token writes pixels: all of it overlapping.
    """

    def __init__(self, arch: Architecture, channels: int) -> None:
        super().__init__()
        self.patch_size = arch.patch_size
        self.fine_patch = arch.fine_patch or arch.patch_size
        width = arch.fine_width
        self.spread = OverlapLinear(arch.features_per_patch, width, arch.patch_size // self.fine_patch)
        self.projection = nn.Linear((2 * self.fine_patch) ** 2 * 3, arch.decoder_projection)
        self.mlp = Mlp(width + arch.decoder_projection, (*arch.decoder_mlp_units, width), arch.dropout)
        self.blocks = nn.ModuleList(NeighbourhoodBlock(arch) for _ in range(arch.fine_blocks))
        self.norm = layer_norm(arch, width)
        self.head = OverlapLinear(width, channels, self.fine_patch)

    def forward(self, features: Tensor, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """Combine what is known about each patch with the photograph, at the finer grid."""
        spread = self.spread(rearrange(features, "b (h w) d -> b h w d", h=grid[0]))
        images = unpatchify(patches, grid, self.patch_size).movedim(1, -1)
        details = self.projection(squares(images, self.fine_patch).flatten(-2))
        tokens = spread + self.mlp(torch.cat((spread, details), dim=-1))
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens)).contiguous().movedim(-1, 1)


class OverlapLinear(nn.Linear):
    """Tokens on a grid (B, h, w, D) -> cells on a grid `side` times as fine (B, h·side, w·side, channels).

    Each token writes a square of twice `side`; a cell is the weighted mean of what the four tokens around it say, with
    weights that fall evenly with the distance and add up to 1. Evenly, for where two tokens disagree, the place at which
    one outweighs the other is then as likely to be anywhere between them; with a Hann window it would gather at the
    middle, which is the border of their patches. Between four tokens all this is one matrix product, because the weights
    can be multiplied into the matrix. With `side` 1 nothing overlaps: an ordinary linear layer.
    """

    def __init__(self, width: int, channels: int, side: int) -> None:
        assert side == 1 or side % 2 == 0, "half a square must be whole cells"
        super().__init__(width, (4 if side > 1 else 1) * side**2 * channels)
        self.side, self.channels = side, channels

    def forward(self, tokens: Tensor) -> Tensor:
        """Write cells; beyond the border, the outermost tokens are repeated."""
        if self.side == 1:
            return super().forward(tokens)
        four = _four_around(_repeat_border(tokens, 1))
        weights = _tent(self.side).to(self.weight)
        matrix = rearrange(self.weight, "(four cells c) d -> four cells c d", four=4, c=self.channels)
        matrix = rearrange(matrix * weights[..., None, None], "four cells c d -> (cells c) (four d)")
        offsets = rearrange(self.bias, "(four cells c) -> four cells c", four=4, c=self.channels)
        bias = (offsets * weights[..., None]).sum(0).flatten()
        cells = F.linear(four, matrix, bias)
        cells = rearrange(cells, "b h w (p q c) -> b (h p) (w q) c", p=self.side, q=self.side)
        half = self.side // 2
        return cells[:, half:-half, half:-half]


def _four_around(grid: Tensor) -> Tensor:
    """Put four neighbours each side by side: (B, h+1, w+1, D) -> (B, h, w, 4·D), top left first, row by row."""
    rows = (grid[:, :-1], grid[:, 1:])
    return torch.cat([part for row in rows for part in (row[:, :, :-1], row[:, :, 1:])], dim=-1)


def _repeat_border(grid: Tensor, cells: int) -> Tensor:
    padded = F.pad(grid.movedim(-1, 1), (cells,) * 4, mode="replicate")
    return padded.movedim(1, -1)


def _tent(side: int) -> Tensor:
    """Return weights (4, side²) of the four tokens around a square of cells; in each cell they add up to 1."""
    after = (torch.arange(side) + 0.5) / side  # of the lower or right token; the rest is of the other
    line = torch.stack((1 - after, after))
    return torch.einsum("ap,bq->abpq", line, line).reshape(4, side**2)
