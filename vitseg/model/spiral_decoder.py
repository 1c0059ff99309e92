"""The paper's future work: an autoregressive decoder that generates patches from the center of the image outwards.

Sequence to sequence as in "Attention Is All You Need" (https://arxiv.org/abs/1706.03762): each patch attends to the
encoder's features of all patches (cross-attention) and to the patches generated before (causal self-attention). The
order is a spiral from the middle of the image, where an eye has most of its receptors.

    training     teacher forcing: the targets stand for the patches before; one pass for all, with a causal mask
    inference    each generated patch is fed back, with a cache of keys and values

Shapes: B images of H×W pixels, P side of a patch, N patches, T = N of them in the order of the spiral, n new ones, D
width of a token, h heads, d width of a head, S = 4·FREQUENCIES.
"""

import math
from functools import cache
from itertools import count
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vitseg.architecture import Architecture
from vitseg.model.blocks import Mlp, layer_norm
from vitseg.model.patches import patchify, unpatchify

FREQUENCIES = 8
"""Frequencies that encode a coordinate, with wavelengths of 4, 8 … 512 patches."""


def spiral_order(grid: tuple[int, int]) -> Tensor:
    """Return the row-major indices int64 (N,) of the patches of a grid (rows, columns) in the order of generation.

    The first is the central patch, or the upper or left one of two. From there the spiral turns clockwise: 1 step
    right, 1 down, 2 left, 2 up, 3 right … Steps outside the grid are skipped, so consecutive patches are always
    neighbors only in square grids and those with one column more than rows.
    """
    return torch.tensor(_walk(grid))


@cache
def _walk(grid: tuple[int, int]) -> tuple[int, ...]:
    height, width = grid
    assert min(grid) >= 1, grid
    row, column = (height - 1) // 2, (width - 1) // 2
    down, right = 0, 1
    order = [row * width + column]
    for side in count(2):
        if len(order) == height * width:
            break
        for _ in range(side // 2):  # sides of 1, 1, 2, 2, 3, 3 … steps
            row, column = row + down, column + right
            if 0 <= row < height and 0 <= column < width:
                order.append(row * width + column)
        down, right = right, -down  # clockwise, as rows count downwards
    return tuple(order)


def centered_positions(grid: tuple[int, int]) -> Tensor:
    """Return sines and cosines (N, S) of each patch's row and column, counted in patches from the image's center.

    Fixed, not learned: they fit grids of any size, and the distance to a neighbor is the same in all of them.
    """
    height, width = grid
    rows = torch.arange(height) - (height - 1) / 2
    columns = torch.arange(width) - (width - 1) / 2
    coordinates = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)
    angles = coordinates[:, :, None] * (math.pi / 2) * 0.5 ** torch.arange(FREQUENCIES)
    return torch.cat((angles.sin(), angles.cos()), dim=-1).flatten(1)


KeysValues = tuple[Tensor, Tensor]
"""Keys and values of all heads, (B, h, T, d) each."""


class KeyValueCache:
    """Keys and values of the tokens generated so far, in tensors allocated once, `like` those of a whole sequence."""

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
        """Process a whole sequence (B, T, D), or with a cache of those before it only its next token (B, 1, D).

        `memory` are keys and values of the encoder's tokens, from `cross_attention.project`.
        """
        normed = self.self_norm(tokens)
        keys_values = self.self_attention.project(normed)
        if cache is not None:
            keys_values = cache.append(keys_values)  # it holds nothing later, so one token needs no mask
        tokens = tokens + self.dropout(self.self_attention(normed, keys_values, causal=cache is None))
        tokens = tokens + self.dropout(self.cross_attention(self.cross_norm(tokens), memory))
        return tokens + self.dropout(self.mlp(self.mlp_norm(tokens)))


class SpiralDecoder(nn.Module):
    """Features (B, N, features_per_patch) and original patches (B, N, P·P·3) -> pixels (B, channels, H, W).

    A token is the sum of three things: features and original patch, concatenated as in `PatchDecoder` (so D =
    features_per_patch + decoder_projection); its own position; and the patch generated before it, with its position.
    `spiral_blocks` causal blocks follow, then the MLP of `decoder_mlp_units` computes the pixels.

    It has dropout and norms as the architecture says, but no drop path and no layer scale.
    """

    def __init__(self, arch: Architecture, channels: int) -> None:
        super().__init__()
        pixels = arch.patch_size**2
        width = arch.features_per_patch + arch.decoder_projection
        self.patch_size, self.target, self.channels = arch.patch_size, arch.target, channels
        self.projection = nn.Linear(pixels * 3, arch.decoder_projection)
        self.position = nn.Linear(4 * FREQUENCIES, width)
        self.begin = nn.Parameter(torch.empty(width))
        self.made = nn.Linear(pixels * channels + 4 * FREQUENCIES, width)
        self.memory_norm = layer_norm(arch, width)
        self.blocks = nn.ModuleList(CausalBlock(arch, width) for _ in range(arch.spiral_blocks))
        self.norm = layer_norm(arch, width)
        self.mlp = Mlp(width, (*arch.decoder_mlp_units, pixels * channels), arch.dropout)
        nn.init.trunc_normal_(self.begin, std=0.02)

    @property
    def head(self) -> nn.Linear:
        """The layer that writes pixels."""
        last = self.mlp.layers[-1]
        assert isinstance(last, nn.Linear)
        return last

    def forward(
        self, features: Tensor, patches: Tensor, grid: tuple[int, int], targets: Tensor | None = None
    ) -> Tensor:
        """Generate images (B, channels, H, W); `targets`, for teacher forcing, have the same shape."""
        target_patches = None if targets is None else patchify(targets, self.patch_size)
        return unpatchify(self.generate(features, patches, grid, target_patches), grid, self.patch_size)

    def generate(
        self, features: Tensor, patches: Tensor, grid: tuple[int, int], targets: Tensor | None = None
    ) -> Tensor:
        """Generate all patches of images, each from the encoder's features and the patches before it.

        Losses and accuracies under teacher forcing are too good: there, a patch follows true ones, but in evaluation
        the network's own, with their mistakes (exposure bias, https://arxiv.org/abs/1506.03099). Only those without
        targets show how good the network is.

        Args:
            features: of the encoder, (B, N, features_per_patch), in row-major order like the rest.
            patches: of the normalized photographs, (B, N, P·P·3).
            grid: rows and columns of patches.
            targets: (B, N, P·P·channels): one-hot classes, zeros where a pixel does not count, or colors in 0–1.
                None: the network's own output is fed back, as probabilities or colors, without gradients.

        Returns:
            Pixels before softmax or sigmoid, (B, N, P·P·channels).
        """
        order = spiral_order(grid).to(features.device)
        positions = centered_positions(grid).to(features)[order]
        combined = torch.cat((features, self.projection(patches)), dim=-1)[:, order] + self.position(positions)
        memory = self.memory_norm(combined)
        if targets is not None:
            pixels = self._decode_all(combined, memory, positions, targets[:, order])
        else:
            with torch.no_grad():  # a cache that is written in place has no gradient
                pixels = self._decode_stepwise(combined, memory, positions)
            if torch.is_grad_enabled():
                pixels = self._decode_all(combined, memory, positions, self._as_input(pixels))
        return pixels[:, order.argsort()]

    def _decode_all(self, combined: Tensor, memory: Tensor, positions: Tensor, given: Tensor) -> Tensor:
        """Decode all patches (B, T, P·P·channels) in one pass, each after the `given` patches before it."""
        begin = self.begin.to(combined.dtype).expand(len(combined), 1, -1)
        tokens = combined + torch.cat((begin, self._embed_output(given[:, :-1], positions[:-1])), dim=1)
        for block, keys_values in zip(self.blocks, self._cross_keys_values(memory), strict=True):
            tokens = block(tokens, keys_values)
        return self.mlp(self.norm(tokens))

    def _decode_stepwise(self, combined: Tensor, memory: Tensor, positions: Tensor) -> Tensor:
        """Decode patches (B, T, P·P·channels) one by one, with a cache: each block computes every token once."""
        cross = self._cross_keys_values(memory)
        caches = [KeyValueCache(keys_values) for keys_values in cross]
        generated: list[Tensor] = []
        before = self.begin.to(combined.dtype)
        for step in range(combined.shape[1]):
            token = combined[:, step : step + 1] + before
            for block, keys_values, so_far in zip(self.blocks, cross, caches, strict=True):
                token = block(token, keys_values, so_far)
            generated.append(self.mlp(self.norm(token)))
            before = self._embed_output(self._as_input(generated[-1]), positions[step : step + 1])
        return torch.cat(generated, dim=1)

    def _cross_keys_values(self, memory: Tensor) -> list[KeysValues]:
        """Return each block's keys and values of the encoder's tokens (B, T, D), which are the same for every patch."""
        return [cast(CausalBlock, block).cross_attention.project(memory) for block in self.blocks]

    def _embed_output(self, pixels: Tensor, positions: Tensor) -> Tensor:
        """Embed generated patches (B, n, P·P·channels) and their positions (n, S) as (B, n, D)."""
        pixels = pixels.to(positions.dtype)
        return self.made(torch.cat((pixels, positions.expand(len(pixels), -1, -1)), dim=-1))

    def _as_input(self, pixels: Tensor) -> Tensor:
        """Turn output (B, n, P·P·channels) into what targets are: probabilities, or colors 0–1."""
        if self.target == "rgb" or self.channels == 1:
            return pixels.sigmoid()
        return rearrange(pixels, "b n (p c) -> b n p c", c=self.channels).softmax(-1).flatten(2)
