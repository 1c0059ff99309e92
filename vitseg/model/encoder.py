"""The encoder: a Vision Transformer (https://arxiv.org/abs/2010.11929) without its classification head."""

from torch import Tensor, nn

from vitseg.model.blocks import TransformerBlock
from vitseg.model.patches import PatchEmbedding
from vitseg.recipe import Architecture


class VisionTransformer(nn.Module):
    """Flattened patches (B, N, P·P·3) -> features (B, N, features_per_patch)."""

    def __init__(self, arch: Architecture, tokens: int) -> None:
        super().__init__()
        self.embedding = PatchEmbedding(arch, tokens)
        self.blocks = nn.ModuleList()
        width = self.embedding.width
        for _ in range(arch.blocks):
            block = TransformerBlock(arch, width)
            self.blocks.append(block)
            width = block.width
        self.norm = nn.LayerNorm(width)
        self.features = nn.Linear(width, arch.features_per_patch)

    def forward(self, patches: Tensor) -> Tensor:
        """Say about each patch (B, N, P·P·3) what it shows, seen among all the others."""
        tokens = self.embedding(patches)
        for block in self.blocks:
            tokens = block(tokens)
        return self.features(self.norm(tokens))
