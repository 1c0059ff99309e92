"""The paper's future work: a decoder that makes patches one after another, from the center of the image outwards.

Sequence to sequence as in https://arxiv.org/abs/1706.03762: each patch attends to what the encoder knows about all
patches (cross-attention) and to the patches made before it (causal self-attention). The first patches are the middle
of the image, where an eye has most of its receptors; the others surround them turn by turn.

    training     the targets stand for the patches made before (teacher forcing): one pass for all, with a causal mask
    inference    what was produced is fed back, patch after patch, with a cache of keys and values

Shapes beside those of the package: T = N patches in the order of the spiral, h heads, S = 4·FREQUENCIES.
"""

import math
from functools import cache
from itertools import count
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from vitseg.architecture import Architecture
from vitseg.model.blocks import Mlp, layer_norm
from vitseg.model.patches import patchify, unpatchify
from vitseg.model.spiral_blocks import CausalBlock, KeysValues, KeyValueCache

FREQUENCIES = 8
"""Sines and cosines that tell a coordinate: wavelengths of 4, 8 … 512 patches."""


def spiral_order(grid: tuple[int, int]) -> Tensor:
    """Return the row-major indices int64 (N,) of a grid's (rows, columns) patches in the order they are made.

    The first is the central patch, on an even side the upper or left of the two central ones. From there the way
    turns clockwise, to the right first: 1 step right, 1 down, 2 left, 2 up, 3 right … What of it lies outside the
    grid is skipped, so only in a square, and where there is one column more than rows, does each patch touch the
    one before.
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
    """Return sines and cosines (N, S) of each patch's coordinates, measured in patches from the image's center.

    Nothing of it is learned and no grid is too large; a neighbor is as far away in a small image as in a large one.
    """
    height, width = grid
    rows = torch.arange(height) - (height - 1) / 2
    columns = torch.arange(width) - (width - 1) / 2
    coordinates = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)
    angles = coordinates[:, :, None] * (math.pi / 2) * 0.5 ** torch.arange(FREQUENCIES)
    return torch.cat((angles.sin(), angles.cos()), dim=-1).flatten(1)


class SpiralDecoder(nn.Module):
    """Features (B, N, features_per_patch) and original patches (B, N, P·P·3) -> pixels (B, channels, H, W).

    A token starts as what `PatchDecoder` turns into pixels at once: features and the reintroduced patch, side by side,
    so tokens are D = features_per_patch + decoder_projection wide. To it come its own position and the patch made
    last, with that one's position. `spiral_blocks` blocks then look around, and the MLP of `decoder_mlp_units` paints.

    Dropout and normalization are the architecture's; stochastic depth and layer scale are the encoder's alone.
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
        """Paint images (B, channels, H, W) patch after patch; `targets` have the same shape."""
        target_patches = None if targets is None else patchify(targets, self.patch_size)
        return unpatchify(self.make(features, patches, grid, target_patches), grid, self.patch_size)

    def make(self, features: Tensor, patches: Tensor, grid: tuple[int, int], targets: Tensor | None = None) -> Tensor:
        """Make all patches of images, each from the encoder's features and the patches before it.

        Exposure bias: with `targets`, a patch only ever follows right ones, which its own mistakes later are not
        (https://arxiv.org/abs/1506.03099, whose scheduled sampling would mix produced patches into them). So losses
        and accuracies under teacher forcing flatter; only those without targets show how good the network is.

        Args:
            features: of the encoder, (B, N, features_per_patch), row by row like all that follows.
            patches: the normalized photographs' patches, (B, N, P·P·3).
            grid: rows and columns of patches.
            targets: the patches' targets, (B, N, P·P·channels): one-hot classes, zeros where a pixel does not
                count, or colors in 0–1. None: what was produced is fed back, as probabilities or colors.

        Returns:
            Pixels before softmax or sigmoid, (B, N, P·P·channels). Without targets, gradients flow through all but
            what was fed back.
        """
        order = spiral_order(grid).to(features.device)
        positions = centered_positions(grid).to(features)[order]
        combined = torch.cat((features, self.projection(patches)), dim=-1)[:, order] + self.position(positions)
        memory = self.memory_norm(combined)
        if targets is not None:
            pixels = self._follow(combined, memory, positions, targets[:, order])
        else:
            with torch.no_grad():  # a cache that is written in place has no gradient
                pixels = self._generate(combined, memory, positions)
            if torch.is_grad_enabled():
                pixels = self._follow(combined, memory, positions, self._fed_back(pixels))
        return pixels[:, order.argsort()]

    def _follow(self, combined: Tensor, memory: Tensor, positions: Tensor, made: Tensor) -> Tensor:
        """Make all patches (B, T, P·P·channels) at once, each after those of `made` that come before it."""
        begin = self.begin.to(combined.dtype).expand(len(combined), 1, -1)
        tokens = combined + torch.cat((begin, self._recall(made[:, :-1], positions[:-1])), dim=1)
        for block, known in zip(self.blocks, self._remember(memory), strict=True):
            tokens = block(tokens, known)
        return self.mlp(self.norm(tokens))

    def _generate(self, combined: Tensor, memory: Tensor, positions: Tensor) -> Tensor:
        """Make patches (B, T, P·P·channels) one after another: O(T) tokens a block in all, and O(T²) in attention."""
        remembered = self._remember(memory)
        caches = [KeyValueCache(known) for known in remembered]
        made: list[Tensor] = []
        before = self.begin.to(combined.dtype)
        for step in range(combined.shape[1]):
            token = combined[:, step : step + 1] + before
            for block, known, cache_ in zip(self.blocks, remembered, caches, strict=True):
                token = block(token, known, cache_)
            made.append(self.mlp(self.norm(token)))
            before = self._recall(self._fed_back(made[-1]), positions[step : step + 1])
        return torch.cat(made, dim=1)

    def _remember(self, memory: Tensor) -> list[KeysValues]:
        """Return what each block can look at of the encoder's tokens (B, T, D): the same for every patch it makes."""
        return [cast(CausalBlock, block).cross_attention.remember(memory) for block in self.blocks]

    def _recall(self, made: Tensor, positions: Tensor) -> Tensor:
        """Embed patches (B, n, P·P·channels) that were made at n places (n, S) as (B, n, D)."""
        made = made.to(positions.dtype)
        return self.made(torch.cat((made, positions.expand(len(made), -1, -1)), dim=-1))

    def _fed_back(self, pixels: Tensor) -> Tensor:
        """Bring what was produced (B, n, P·P·channels) to the space of the targets: probabilities, or colors 0–1."""
        if self.target == "rgb" or self.channels == 1:
            return pixels.sigmoid()
        return rearrange(pixels, "b n (p c) -> b n p c", c=self.channels).softmax(-1).flatten(2)
