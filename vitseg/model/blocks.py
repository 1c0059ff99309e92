"""The parts of a Transformer: self-attention, MLP, and the pre-norm block of both.

Attention is that of "Attention Is All You Need" (https://arxiv.org/abs/1706.03762), the block that of ViT
(https://arxiv.org/abs/2010.11929), with layer scale (CaiT, https://arxiv.org/abs/2103.17239) and drop path (stochastic
depth, https://arxiv.org/abs/1603.09382) and rotary positions where the architecture has them.

Shapes: B images, N tokens, D width of a token, h heads, d width of a head.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitseg.architecture import Architecture
from vitseg.model.rotary import rotate


class MultiHeadAttention(nn.Module):
    """Self-attention among all tokens: (B, N, D) -> (B, N, D). The width of a head is independent of D."""

    def __init__(self, arch: Architecture, width: int) -> None:
        super().__init__()
        self.heads = arch.heads
        self.qkv = nn.Linear(width, 3 * arch.heads * arch.head_width)
        self.output = nn.Linear(arch.heads * arch.head_width, width)

    def forward(self, tokens: Tensor, *rotation: Tensor) -> Tensor:
        """Return softmax(Q·Kᵀ/√d)·V of each head, projected back to (B, N, D).

        With rotary positions, `rotation` are the cosines and sines by which Q and K are rotated.
        """
        batch, count = tokens.shape[:2]
        qkv = self.qkv(tokens.flatten(0, 1)).view(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if rotation:
            both, value = qkv.split((2, 1))
            query, key, value = *rotate(both, *rotation).unbind(), value.squeeze(0)
        else:
            query, key, value = qkv.unbind()
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.output(mixed.transpose(1, 2).reshape(batch * count, -1)).view(batch, count, -1)


def quick_gelu(x: Tensor) -> Tensor:
    """Approximate GELU by a sigmoid, as CLIP does (https://arxiv.org/abs/1606.08415)."""
    return x * torch.sigmoid(1.702 * x)


def swiglu(x: Tensor) -> Tensor:
    """Multiply the second half of (…, 2·D) by SiLU of the first, its gate (https://arxiv.org/abs/2002.05202)."""
    gate, value = x.chunk(2, dim=-1)
    return F.silu(gate) * value


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "quick_gelu": quick_gelu,
    "swiglu": swiglu,
}


class Mlp(nn.Module):
    """Linear layers of the given widths, with an activation and dropout between them but not after the last.

    With `swiglu`, the rows of a layer are those of its gate, then as many values that are multiplied by it.
    """

    def __init__(self, width: int, units: Sequence[int], dropout: float, activation: str = "gelu") -> None:
        super().__init__()
        factors = [2 if activation == "swiglu" else 1] * (len(units) - 1) + [1]
        pairs = zip(pairwise((width, *units)), factors, strict=True)
        self.layers = nn.ModuleList(nn.Linear(a, factor * b) for (a, b), factor in pairs)
        self.activation = _ACTIVATIONS[activation]
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, width) to (…, units[-1])."""
        rows = x.flatten(0, -2)
        for layer in self.layers[:-1]:
            rows = self.dropout(self.activation(layer(rows)))
        return self.layers[-1](rows).view(*x.shape[:-1], -1)


class TransformerBlock(nn.Module):
    """LayerNorm -> attention -> add, LayerNorm -> MLP -> add: (B, …, D) -> (B, …, last of mlp_units).

    Where the MLP changes the width of tokens, as the paper's [512, 1024] does, the skip path is a linear layer too.
    Drop path grows with `depth`, from 0 (first block) to 1 (last). By default all tokens attend to each other.
    """

    def __init__(self, arch: Architecture, width: int, depth: float = 0.0, attention: nn.Module | None = None) -> None:
        super().__init__()
        self.width = arch.mlp_units[-1]
        self.attention_norm = layer_norm(arch, width)
        self.attention = attention or MultiHeadAttention(arch, width)
        self.attention_branch = ResidualBranch(arch, width, depth)
        self.mlp_norm = layer_norm(arch, width)
        self.mlp = Mlp(width, arch.mlp_units, arch.dropout, arch.activation)
        self.mlp_branch = ResidualBranch(arch, self.width, depth)
        projected = arch.skip_projection or width != self.width
        self.skip = nn.Linear(width, self.width) if projected else nn.Identity()

    def forward(self, tokens: Tensor, *context: Tensor) -> Tensor:
        """Mix tokens (B, …, D) by attention, to which `context` is passed on, then transform each of them."""
        tokens = self.attention_branch(tokens, self.attention(self.attention_norm(tokens), *context))
        return self.mlp_branch(self.skip(tokens), self.mlp(self.mlp_norm(tokens)))


class ResidualBranch(nn.Module):
    """Adds a residual to its tokens: after dropout, layer scale and drop path; nothing of these by default."""

    def __init__(self, arch: Architecture, width: int, depth: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(arch.dropout)
        self.scale = nn.Parameter(torch.full((width,), arch.layer_scale)) if arch.layer_scale else None
        self.drop_path = arch.stochastic_depth * depth

    def forward(self, tokens: Tensor, residual: Tensor) -> Tensor:
        """Return tokens + residual, both (B, …, D)."""
        residual = self.dropout(residual)
        factor: Tensor | None = self.scale
        if self.training and self.drop_path:
            # Some images skip this branch; in the others it is scaled up, which keeps the expected value.
            kept = torch.rand(len(residual), *[1] * (residual.ndim - 1), device=residual.device) >= self.drop_path
            kept = kept / (1 - self.drop_path)
            factor = kept if factor is None else kept * factor
        return tokens + (residual if factor is None else residual * factor.to(residual.dtype))


def layer_norm(arch: Architecture, width: int) -> nn.Module:
    """Return the architecture's normalization of tokens, or the identity."""
    return nn.LayerNorm(width, eps=arch.norm_epsilon) if arch.normalization == "layer" else nn.Identity()
