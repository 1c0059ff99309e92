"""The decoder of bundles from before attention_decoder, under its true name: learned maps read overlapping windows.

Nine neighboring tokens go through one learned matrix, as do overlapping squares of the photograph: in what they compute,
these are convolutions. No recipe can ask for it; it is here so that bundles which have it are read. Their architecture
calls it `overlap`.

Shapes: B images of H×W pixels, P side of a patch, N patches, h×w tokens on a grid, D width of a token.
"""

import dataclasses

import torch
from einops import rearrange
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from vitseg.architecture import STRICT, Architecture
from vitseg.model.blocks import Mlp, TransformerBlock, layer_norm
from vitseg.model.patches import unpatchify

_MLP_RATIO = 2
_MASKED = -1e4  # not -inf: a row of which all is masked would become NaN


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ConvolutionalArchitecture(Architecture):
    """The architecture of a bundle with this decoder: with the keys that only it has."""

    fine_heads: int
    fine_radius: int
    narrow_width: int


class ConvolutionalDecoder(nn.Module):
    """Features (B, N, features_per_patch) and original patches (B, N, P·P·3) -> pixels (B, channels, H, W).

    Features are spread over a grid of finer patches; the photograph's finer patches are reintroduced there; blocks of
    neighborhood attention follow; and each finer token decodes its pixels. Every step overlaps its neighbors.
    """

    def __init__(self, arch: Architecture, channels: int) -> None:
        super().__init__()
        assert isinstance(arch, ConvolutionalArchitecture), "no recipe can ask for this decoder"
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


class NeighborhoodAttention(nn.Module):
    """Self-attention among neighbors on a grid (https://arxiv.org/abs/2204.07143): (B, h, w, D) -> (B, h, w, D).

    A learned bias for each head and relative position is added to the attention scores. Queries are computed in blocks,
    each with the keys of a square of twice the block's side around it.
    """

    def __init__(self, width: int, heads: int, radius: int) -> None:
        """Create attention of tokens `width` wide to those at most `radius` rows and columns away."""
        super().__init__()
        self.heads, self.radius = heads, radius
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.offset_bias = nn.Parameter(torch.zeros(heads, (2 * radius + 1) ** 2))

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix each token with its neighbors; at the border of the grid there are fewer."""
        height, width = tokens.shape[1:3]
        block = 2 * self.radius
        padding = (0, 0, 0, -width % block, 0, -height % block)  # to whole blocks
        query, key, value = self.qkv(F.pad(tokens, padding)).chunk(3, dim=-1)
        query = rearrange(query, "b (y p) (x q) (h d) -> (b y x) h (p q) d", p=block, q=block, h=self.heads)
        key, value = (
            rearrange(unfold_overlapping(part, block), "b y x k (h d) -> (b y x) h k d", h=self.heads)
            for part in (key, value)
        )
        inside = F.pad(tokens.new_ones(1, height, width, 1), padding)
        inside = rearrange(unfold_overlapping(inside, block), "1 y x k 1 -> (y x) 1 1 k")
        bias = self._bias(query) + (1 - inside.to(query.dtype)) * _MASKED
        # Blocks of all images in one dimension: fused attention takes no more than four.
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.repeat(tokens.shape[0], 1, 1, 1))
        rows = -(-height // block)
        mixed = rearrange(mixed, "(b y x) h (p q) d -> b (y p) (x q) (h d)", b=tokens.shape[0], y=rows, p=block)
        return self.output(mixed[:, :height, :width])

    def _bias(self, like: Tensor) -> Tensor:
        """Return the bias (heads, block², 4·block²) of a block's queries and keys; keys beyond the radius are masked."""
        query = torch.arange(2 * self.radius, device=like.device) + self.radius
        offset = torch.arange(4 * self.radius, device=like.device) - query[:, None]  # (block, 2·block)
        near = offset.abs() <= self.radius
        cell = offset.clamp(-self.radius, self.radius) + self.radius
        table = cell[:, None, :, None] * (2 * self.radius + 1) + cell[None, :, None, :]
        bias = self.offset_bias[:, rearrange(table, "a b c d -> (a b) (c d)")]
        visible = rearrange(near[:, None, :, None] & near[None, :, None, :], "a b c d -> (a b) (c d)")
        return bias.masked_fill(~visible, _MASKED).to(like.dtype)


def unfold_overlapping(grid: Tensor, stride: int) -> Tensor:
    """Cut a grid (B, h, w, D) to overlapping squares (B, h/stride, w/stride, (2·stride)², D), zeros beyond the border."""
    half = stride // 2
    padded = F.pad(grid, (0, 0, half, half, half, half))
    cells = rearrange(padded, "b (y p) (x q) d -> b y p x q d", p=stride, q=stride)
    tall = torch.cat((cells[:, :-1], cells[:, 1:]), dim=2)
    square = torch.cat((tall[:, :, :, :-1], tall[:, :, :, 1:]), dim=4)
    return rearrange(square, "b y p x q d -> b y x (p q) d")


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
