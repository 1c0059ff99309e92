"""The encoder: a Vision Transformer (https://arxiv.org/abs/2010.11929) without its classification head.

Shapes: B images, P side of a patch, N patches, V visible patches, D width of a token.
"""

import torch
from torch import Tensor, nn

from vitseg.architecture import Architecture
from vitseg.model.blocks import TransformerBlock, layer_norm
from vitseg.model.patches import PatchEmbedding


class VisionTransformer(nn.Module):
    """Flattened patches (B, N, P·P·3) -> tokens (B, N, D) with context from the whole image; `width` is D.

    With `class_token`, a learned token without a patch comes first: (B, 1 + N, D).
    """

    def __init__(self, arch: Architecture, grid: tuple[int, int]) -> None:
        super().__init__()
        self.embedding = PatchEmbedding(arch, grid)
        self.class_token = nn.Parameter(torch.empty(self.embedding.width)) if arch.class_token else None
        if self.class_token is not None:
            nn.init.trunc_normal_(self.class_token, std=0.02)
        self.blocks = nn.ModuleList()
        self.width = self.embedding.width
        for index in range(arch.blocks):
            block = TransformerBlock(arch, self.width, depth=index / max(1, arch.blocks - 1))
            self.blocks.append(block)
            self.width = block.width
        self.norm = layer_norm(arch, self.width)

    def forward(self, patches: Tensor, grid: tuple[int, int], visible: Tensor | None = None) -> Tensor:
        """Encode the patches (B, N, P·P·3) of a grid (rows, columns), in row-major order.

        In masked pretraining, `visible` are the indices (B, V) of the only patches to encode: the result has V tokens.
        """
        tokens = self.embedding(patches, grid)
        if visible is not None:
            tokens = tokens.gather(1, visible[..., None].expand(-1, -1, tokens.shape[-1]))
        if self.class_token is not None:
            first = self.class_token.to(tokens.dtype).expand(len(tokens), 1, -1)
            tokens = torch.cat((first, tokens), dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)
