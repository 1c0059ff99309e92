"""The parts of the spiral decoder: attention with a cache of keys and values, and the causal block of it.

The decoder block of "Attention Is All You Need" (https://arxiv.org/abs/1706.03762), pre-norm as in `blocks`.

Shapes: B images, T tokens of a whole sequence, n new tokens, D width of a token, h heads, d width of a head.
"""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vitseg.architecture import Architecture
from vitseg.model.blocks import Mlp, layer_norm

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of all heads, (B, h, T, d) each."""


class KeyValueCache:
    """Keys and values of the tokens generated so far, in tensors allocated once for the whole sequence.

    Args:
        like: keys and values of equal shape and type, of a whole sequence.
    """

    def __init__(self, like: KeysValues) -> None:
        self._keys, self._values = (torch.empty_like(tensor) for tensor in like)
        self._length = 0

    def append(self, new: KeysValues) -> KeysValues:
        """Add those of the next tokens, (B, h, n, d) each, and return those of all tokens so far."""
        start, self._length = self._length, self._length + new[0].shape[2]
        self._keys[:, :, start : self._length], self._values[:, :, start : self._length] = new
        return self._keys[:, :, : self._length], self._values[:, :, : self._length]


class Attention(nn.Module):
    """Attention of tokens (B, n, D) to given keys and values, their own or others: (B, n, D) -> (B, n, D)."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, heads * head_width)
        self.keys_values = nn.Linear(width, 2 * heads * head_width)
        self.output = nn.Linear(heads * head_width, width)

    def project(self, tokens: Tensor) -> KeysValues:
        """Return the keys and values of tokens (B, T, D)."""
        keys, values = rearrange(self.keys_values(tokens), "b n (kv h d) -> kv b h n d", kv=2, h=self.heads)
        return keys, values

    def forward(self, tokens: Tensor, keys_values: KeysValues, causal: bool = False) -> Tensor:
        """Return softmax(Q·Kᵀ/√d)·V of each head, projected back; `causal`: token t attends to keys 0 … t only."""
        query = rearrange(self.query(tokens), "b n (h d) -> b h n d", h=self.heads)
        mixed = F.scaled_dot_product_attention(query, *keys_values, is_causal=causal)
        return self.output(rearrange(mixed, "b h n d -> b n (h d)"))


class CausalBlock(nn.Module):
    """Causal self-attention, cross-attention to the encoder's tokens, MLP of 4·D, each added: (B, T, D) -> (B, T, D)."""

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
        """Process a whole sequence (B, T, D), or with a cache only its next token (B, 1, D).

        Args:
            tokens: in the order of generation.
            memory: keys and values of the encoder's tokens, from `cross_attention.project`.
            cache: of the tokens before; those of this one are added.
        """
        normed = self.self_norm(tokens)
        keys_values = self.self_attention.project(normed)
        if cache is not None:
            keys_values = cache.append(keys_values)  # it holds nothing later, so one token needs no mask
        tokens = tokens + self.dropout(self.self_attention(normed, keys_values, causal=cache is None))
        tokens = tokens + self.dropout(self.cross_attention(self.cross_norm(tokens), memory))
        return tokens + self.dropout(self.mlp(self.mlp_norm(tokens)))
