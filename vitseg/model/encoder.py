"""The encoder: a Vision Transformer (https://arxiv.org/abs/2010.11929) without its classification head."""

import torch
from torch import Tensor, nn

from vitseg.model.blocks import TransformerBlock
from vitseg.model.patches import PatchEmbedding
from vitseg.recipe import Architecture


class VisionTransformer(nn.Module):
    """Flattened patches (B, N, P·P·3) -> features (B, N, features_per_patch)."""

    def __init__(self, arch: Architecture, grid: tuple[int, int]) -> None:
        super().__init__()
        self.embedding = PatchEmbedding(arch, grid)
        width = self.embedding.width
        self.class_token = nn.Parameter(torch.empty(width)) if arch.class_token else None
        if self.class_token is not None:
            nn.init.trunc_normal_(self.class_token, std=0.02)
        self.blocks = nn.ModuleList()
        for _ in range(arch.blocks):
            block = TransformerBlock(arch, width)
            self.blocks.append(block)
            width = block.width
        self.width = width
        self.norm = nn.LayerNorm(width, eps=arch.norm_epsilon)
        self.features = nn.Linear(width, arch.features_per_patch)

    def tokens(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """Let patches (B, N, P·P·3) look at each other: normalised tokens (B, N, D), the class token, if any, first."""
        tokens = self.embedding(patches, grid)
        if self.class_token is not None:
            first = self.class_token.to(tokens.dtype).expand(len(tokens), 1, -1)
            tokens = torch.cat((first, tokens), dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)

    def forward(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """Say about each patch (B, N, P·P·3) what it shows, seen among all the others."""
        return self.features(self.tokens(patches, grid)[:, -patches.shape[1] :])
