"""Attention among neighbors on a grid of tokens (https://arxiv.org/abs/2204.07143).

Every token looks at those at most some steps away from it, and no further: the same everywhere on the grid, so that
no border shows, as it would with windows. Its cost grows with the number of tokens, not with its square: what fine
tokens can afford.
"""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vitseg.architecture import Architecture
from vitseg.model.blocks import Mlp, ResidualBranch, layer_norm

_MLP_RATIO = 2
_NEVER = -1e4  # not -inf: softmax over nothing else would be NaN


class NeighborhoodAttention(nn.Module):
    """Tokens on a grid look at their neighbors: (B, h, w, D) -> (B, h, w, D), for any h and w.

    How much a token looks at another depends also on where that lies, by a learned table of offsets. It is computed in
    blocks of queries, each with the keys of a square of twice its side around it.
    """

    def __init__(self, width: int, heads: int, radius: int) -> None:
        """Make attention over `width` numbers a token; `radius` is how many steps away a neighbor may be."""
        super().__init__()
        self.heads, self.radius = heads, radius
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.offset_bias = nn.Parameter(torch.zeros(heads, (2 * radius + 1) ** 2))

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix each token with its neighbors; where the grid ends there are fewer."""
        height, width = tokens.shape[1:3]
        block = 2 * self.radius
        fill = (0, 0, 0, -width % block, 0, -height % block)  # to whole blocks
        query, key, value = self.qkv(F.pad(tokens, fill)).chunk(3, dim=-1)
        query = rearrange(query, "b (y p) (x q) (h d) -> (b y x) h (p q) d", p=block, q=block, h=self.heads)
        key, value = (
            rearrange(unfold_overlapping(part, block), "b y x k (h d) -> (b y x) h k d", h=self.heads)
            for part in (key, value)
        )
        real = F.pad(tokens.new_ones(1, height, width, 1), fill)
        real = rearrange(unfold_overlapping(real, block), "1 y x k 1 -> (y x) 1 1 k")
        bias = self._bias(query) + (1 - real.to(query.dtype)) * _NEVER
        # Blocks of all images in one dimension: fused attention takes no more than four.
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.repeat(len(tokens), 1, 1, 1))
        rows = -(-height // block)
        mixed = rearrange(mixed, "(b y x) h (p q) d -> b (y p) (x q) (h d)", b=len(tokens), y=rows, p=block)
        return self.output(mixed[:, :height, :width])

    def _bias(self, like: Tensor) -> Tensor:
        """Return what is added to the scores of queries (block²) and keys (4·block²) of one block, a row a head."""
        query = torch.arange(2 * self.radius, device=like.device) + self.radius
        step = torch.arange(4 * self.radius, device=like.device) - query[:, None]  # (block, 2·block)
        near = step.abs() <= self.radius
        cell = step.clamp(-self.radius, self.radius) + self.radius
        table = cell[:, None, :, None] * (2 * self.radius + 1) + cell[None, :, None, :]
        bias = self.offset_bias[:, rearrange(table, "a b c d -> (a b) (c d)")]
        seen = rearrange(near[:, None, :, None] & near[None, :, None, :], "a b c d -> (a b) (c d)")
        return bias.masked_fill(~seen, _NEVER).to(like.dtype)


class NeighborhoodBlock(nn.Module):
    """A pre-norm Transformer block of neighbors: (B, h, w, D) -> (B, h, w, D)."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        width = arch.fine_width
        self.attention_norm = layer_norm(arch, width)
        self.attention = NeighborhoodAttention(width, arch.fine_heads, arch.fine_radius)
        self.attention_branch = ResidualBranch(arch, width, depth=1)
        self.mlp_norm = layer_norm(arch, width)
        self.mlp = Mlp(width, (_MLP_RATIO * width, width), arch.dropout)
        self.mlp_branch = ResidualBranch(arch, width, depth=1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Let neighbors exchange what they know, then work on each token by itself."""
        tokens = tokens + self.attention_branch(self.attention(self.attention_norm(tokens)))
        return tokens + self.mlp_branch(self.mlp(self.mlp_norm(tokens)))


def unfold_overlapping(grid: Tensor, side: int) -> Tensor:
    """Cut a grid (B, h, w, D) to overlapping squares of twice `side`, one around each square of `side`.

    Returns:
        (B, h/side, w/side, (2·side)², D), row by row; zeros beyond the border.
    """
    half = side // 2
    padded = F.pad(grid, (0, 0, half, half, half, half))
    cells = rearrange(padded, "b (y p) (x q) d -> b y p x q d", p=side, q=side)
    tall = torch.cat((cells[:, :-1], cells[:, 1:]), dim=2)
    square = torch.cat((tall[:, :, :, :-1], tall[:, :, :, 1:]), dim=4)
    return rearrange(square, "b y p x q d -> b y x (p q) d")
