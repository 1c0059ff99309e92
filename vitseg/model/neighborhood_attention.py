"""Neighborhood attention (https://arxiv.org/abs/2204.07143): each token attends to those within a radius on the grid.

Unlike windows, the neighborhood moves with the token, so no window borders show. The cost grows linearly with the number
of tokens, which makes it affordable on a fine grid.

Shapes: B images, h×w tokens on a grid, D width of a token.
"""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

_MASKED = -1e4  # not -inf: a row of which all is masked would become NaN


class NeighborhoodAttention(nn.Module):
    """Self-attention among neighbors on a grid: (B, h, w, D) -> (B, h, w, D), for any h and w.

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
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.repeat(len(tokens), 1, 1, 1))
        rows = -(-height // block)
        mixed = rearrange(mixed, "(b y x) h (p q) d -> b (y p) (x q) (h d)", b=len(tokens), y=rows, p=block)
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
