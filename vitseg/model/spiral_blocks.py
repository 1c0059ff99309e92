"""The parts of the spiral decoder: attention with keys and values that can be kept, and the block that uses them.

The decoder block of https://arxiv.org/abs/1706.03762, pre-norm as the encoder's of `blocks`.
"""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vitseg.architecture import Architecture
from vitseg.model.blocks import Mlp, layer_norm

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of every head, (B, h, T, head_width) each."""


class KeyValueCache:
    """Keys and values of the tokens so far, written into tensors that are as long as the whole sequence from the start.

    Args:
        like: keys and values of a sequence as long as this one will become, of the same heads.
    """

    def __init__(self, like: KeysValues) -> None:
        self._keys, self._values = (torch.empty_like(tensor) for tensor in like)
        self._length = 0

    def append(self, new: KeysValues) -> KeysValues:
        """Add those of the next tokens (B, h, n, head_width), and return those of all tokens so far."""
        start, self._length = self._length, self._length + new[0].shape[2]
        self._keys[:, :, start : self._length], self._values[:, :, start : self._length] = new
        return self._keys[:, :, : self._length], self._values[:, :, : self._length]


class Attention(nn.Module):
    """Tokens (B, n, D) look at keys and values that may come from elsewhere: (B, n, D) -> (B, n, D)."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, heads * head_width)
        self.keys_values = nn.Linear(width, 2 * heads * head_width)
        self.output = nn.Linear(heads * head_width, width)

    def remember(self, tokens: Tensor) -> KeysValues:
        """Return the keys and values by which tokens (B, T, D) can be looked at."""
        keys, values = rearrange(self.keys_values(tokens), "b n (kv h d) -> kv b h n d", kv=2, h=self.heads)
        return keys, values

    def forward(self, tokens: Tensor, known: KeysValues, causal: bool = False) -> Tensor:
        """Mix values by softmax(Q·Kᵀ/√head_width); `causal`: token t sees the keys 0 … t only."""
        query = rearrange(self.query(tokens), "b n (h d) -> b h n d", h=self.heads)
        mixed = F.scaled_dot_product_attention(query, *known, is_causal=causal)
        return self.output(rearrange(mixed, "b h n d -> b n (h d)"))


class CausalBlock(nn.Module):
    """Look at the tokens before -> look at the encoder's -> MLP of 4·D: (B, T, D) -> (B, T, D), each step added."""

    def __init__(self, arch: Architecture, width: int) -> None:
        super().__init__()
        self.self_norm = layer_norm(arch, width)
        self.self_attention = Attention(width, arch.heads, arch.head_width)
        self.cross_norm = layer_norm(arch, width)
        self.cross_attention = Attention(width, arch.heads, arch.head_width)
        self.mlp_norm = layer_norm(arch, width)
        self.mlp = Mlp(width, (4 * width, width), arch.dropout)
        self.dropout = nn.Dropout(arch.dropout)

    def forward(self, tokens: Tensor, memory: KeysValues, cache: KeyValueCache | None = None) -> Tensor:
        """Take a whole sequence of tokens (B, T, D), or with a cache its next token alone, (B, 1, D).

        Args:
            tokens: in the order they are made.
            memory: what `cross_attention.remember` makes of the encoder's tokens.
            cache: of the tokens before; this one is added to it.
        """
        normed = self.self_norm(tokens)
        known = self.self_attention.remember(normed)
        if cache is not None:
            known = cache.append(known)  # nothing later is in it: one token needs no mask
        tokens = tokens + self.dropout(self.self_attention(normed, known, causal=cache is None))
        tokens = tokens + self.dropout(self.cross_attention(self.cross_norm(tokens), memory))
        return tokens + self.dropout(self.mlp(self.mlp_norm(tokens)))
