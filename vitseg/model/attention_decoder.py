"""Our decoder: the original patches come back at a finer grid, and each asks the encoder's tokens around it, by attention.

The paper's decoder reintroduces the original patches too, but decodes each by itself, so that neighbors disagree at their
border. Here the photograph is cut again, into finer patches, and each of them is a query. Each encoder token has a key and a
value for 2×2 places in its patch, and a query attends to the nine places around it. Scores fall with distance, so that a place
which enters or leaves the neighborhood of a query has weight 0 there: from one patch to the next nothing changes abruptly, and
no seams show. Before training, this attention nearly interpolates what the tokens say. Last, each finer patch has one vector of
logits, which are interpolated to pixels by a cubic kernel.

No learned layer reads more than one patch or one token; what is around comes in by attention alone.

Shapes: B images of H×W pixels, P side of a patch, N encoder tokens of width E, p side of a finer patch, D width of its token, d
width of a head. Windows are squares of finer patches whose queries are computed together: W in a batch, q queries in each.
"""

import dataclasses
import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vitseg.architecture import Architecture
from vitseg.model.blocks import TransformerBlock, layer_norm
from vitseg.model.cubic_interpolation import CubicInterpolation

HEAD_WIDTH = 32
_MLP_RATIO = 2
_PARTS = 2  # rows and columns of places in an encoder token that have a key and a value of their own
_WINDOW = 8  # most rows and columns of finer patches in a window: in larger ones more scores count for nothing
_NEVER = -1e4  # score of a key outside the neighborhood; not -inf, which gives NaN where bfloat16 rounds


class AttentionDecoder(nn.Module):
    """Encoder tokens (B, N, E) and original patches (B, N, P·P·3) -> pixels (B, channels, H, W)."""

    distance_bias: Tensor

    def __init__(self, arch: Architecture, channels: int) -> None:
        super().__init__()
        width, self.fine_patch = arch.fine_width, arch.fine_patch or arch.patch_size
        fine_per_patch = arch.patch_size // self.fine_patch
        self.parts = _PARTS if fine_per_patch % _PARTS == 0 else 1
        self.times = fine_per_patch // self.parts
        # No drop path: it would cut queries off from all that the encoder knows.
        fine = dataclasses.replace(
            arch, mlp_units=(_MLP_RATIO * width, width), skip_projection=False, stochastic_depth=0.0, layer_scale=0.0,
            activation="gelu",
        )  # fmt: skip
        self.projection = nn.Linear(self.fine_patch**2 * 3, width)
        self.keys_values = nn.Linear(arch.token_width, self.parts**2 * 2 * arch.fine_blocks * width)
        self.blocks = nn.ModuleList(
            TransformerBlock(fine, width, attention=CrossAttention(width)) for _ in range(arch.fine_blocks)
        )
        self.norm = layer_norm(arch, width)
        self.head = nn.Linear(width, channels)
        self.interpolation = CubicInterpolation(self.fine_patch)
        # Not among the weights, so that bundles don't depend on the size of windows; so it isn't left on a meta device either.
        self.register_buffer("distance_bias", spline_scores(self.times), persistent=False)

    def forward(self, tokens: Tensor, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """Decode the patches of a grid (rows, columns)."""
        keys = grid[0] * self.parts, grid[1] * self.parts
        # Of a window, in keys. An export for any size has no numbers here yet: windows of one patch fit every grid.
        side = math.gcd(len(self.distance_bias) // self.times, *keys) if isinstance(keys[0], int) else self.parts
        fine, cells = side * self.times, (keys[0] // side, keys[1] // side)
        queries = self.projection(self._cut_finer(patches, grid, fine))
        keys_values = self._around_windows(tokens, grid, side)
        bias = self.distance_bias[:fine, :fine, : side + 2, : side + 2].flatten(2).flatten(0, 1)
        for block, key, value in zip(self.blocks, keys_values[::2], keys_values[1::2], strict=True):
            queries = block(queries.view(-1, fine**2, queries.shape[-1]), key, value, bias.to(key.dtype))
        logits = self.head(self.norm(queries).flatten(0, 1)).float()
        image = rearrange(logits, "(b y x p q) c -> b (y p) (x q) c", y=cells[0], x=cells[1], p=fine, q=fine)
        return self.interpolation(image.movedim(-1, 1))

    def _cut_finer(self, patches: Tensor, grid: tuple[int, int], side: int) -> Tensor:
        """Cut patches (B, N, P·P·3) to finer ones, window by window: (W·q, p·p·3)."""
        image = rearrange(
            patches, "b (h w) (k p l q c) -> b (h k) (w l) (p q c)",
            h=grid[0], k=self.parts * self.times, l=self.parts * self.times, p=self.fine_patch, q=self.fine_patch,
        )  # fmt: skip
        return rearrange(image, "b (y p) (x q) d -> (b y x p q) d", p=side, q=side)

    def _around_windows(self, tokens: Tensor, grid: tuple[int, int], side: int) -> tuple[Tensor, ...]:
        """Return the key and the value of each block in turn, those of a window and around it: (W, heads, (side + 2)², d).

        Beyond the border of the image, its outermost ones are repeated.
        """
        all_of_image = rearrange(
            self.keys_values(tokens.flatten(0, 1)), "(b h w) (i j d) -> b d (h i) (w j)",
            h=grid[0], w=grid[1], i=self.parts, j=self.parts,
        )  # fmt: skip
        padded = F.pad(all_of_image, (1, 1, 1, 1), mode="replicate")
        windows = padded.unfold(2, side + 2, side).unfold(3, side + 2, side)
        return rearrange(
            windows, "b (n h d) y x p q -> n (b y x) h (p q) d", n=2 * len(self.blocks), d=HEAD_WIDTH
        ).unbind()


class CrossAttention(nn.Module):
    """Attention of tokens (W, q, D) to keys and values that are given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, tokens: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """Return softmax(Q·Kᵀ/√d + bias)·V of each head, projected; keys and values (W, heads, k, d), bias (q, k)."""
        query = self.query(tokens.flatten(0, 1)).view(*tokens.shape[:2], *key.shape[1::2]).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.output(mixed.transpose(1, 2).reshape(-1, tokens.shape[-1])).view(tokens.shape)


def spline_scores(times: int) -> Tensor:
    """Return what distance adds to the scores of the n×n keys in a window and those around: (n·times, n·times, n + 2, n + 2).

    Of each query's row and column in the window, for each key's row and column, of which the first and the last are outside. It
    is the logarithm of a quadratic B-spline (https://doi.org/10.1090/qam/15914), whose values are weights that sum to 1
    and reach 0 without a kink one and a half keys away.
    """
    side = max(1, _WINDOW // times)
    place = (torch.arange(side * times, device="cpu") + 0.5) / times + 0.5
    distance = (torch.arange(side + 2, device="cpu") - place[:, None]).abs()
    weight = torch.where(distance < 0.5, 0.75 - distance**2, (1.5 - distance).clamp(min=0) ** 2 / 2)
    line = weight.log().clamp(min=_NEVER)
    return line[:, None, :, None] + line[None, :, None, :]
