"""The parts of a Transformer: self-attention, MLP, and the pre-norm block that joins them.

Attention as in https://arxiv.org/abs/1706.03762, the block as in https://arxiv.org/abs/2010.11929.
"""

from collections.abc import Sequence
from itertools import pairwise

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vitseg.recipe import Architecture


class MultiHeadAttention(nn.Module):
    """Every token looks at every other: (B, N, D) -> (B, N, D), with heads of their own width."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * heads * head_width)
        self.output = nn.Linear(heads * head_width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix tokens (B, N, D) by softmax(Q·Kᵀ/√head_width)·V in each head."""
        query, key, value = rearrange(self.qkv(tokens), "b n (qkv h d) -> qkv b h n d", qkv=3, h=self.heads)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.output(rearrange(mixed, "b h n d -> b n (h d)"))


class Mlp(nn.Module):
    """Linear layers of the given widths with GELU and dropout between them; nothing follows the last."""

    def __init__(self, width: int, units: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise((width, *units)))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, width) to (…, units[-1])."""
        for layer in self.layers[:-1]:
            x = self.dropout(F.gelu(layer(x)))
        return self.layers[-1](x)


class TransformerBlock(nn.Module):
    """LayerNorm -> attention -> add, LayerNorm -> MLP -> add: (B, N, D) -> (B, N, last of mlp_units).

    Where the MLP changes the width of tokens, as the paper's [512, 1024] does, a linear projection takes the
    skip path to the new width.
    """

    def __init__(self, arch: Architecture, width: int) -> None:
        super().__init__()
        self.width = arch.mlp_units[-1]
        self.attention_norm = nn.LayerNorm(width, eps=arch.norm_epsilon)
        self.attention = MultiHeadAttention(width, arch.heads, arch.head_width)
        self.mlp_norm = nn.LayerNorm(width, eps=arch.norm_epsilon)
        self.mlp = Mlp(width, arch.mlp_units, arch.dropout)
        self.skip = nn.Linear(width, self.width) if width != self.width else nn.Identity()
        self.dropout = nn.Dropout(arch.dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Let tokens (B, N, D) exchange what they know, then work on each by itself."""
        tokens = tokens + self.dropout(self.attention(self.attention_norm(tokens)))
        return self.skip(tokens) + self.dropout(self.mlp(self.mlp_norm(tokens)))
