"""The encoder: a Vision Transformer (https://arxiv.org/abs/2010.11929) without its classification head.

Registers are those of "Vision Transformers Need Registers" (https://arxiv.org/abs/2309.16588).

Shapes: B images, P side of a patch, N patches, V visible patches, R registers, D width of a token.
"""

import torch
from torch import Tensor, nn

from vitseg.architecture import Architecture
from vitseg.model.blocks import TransformerBlock, layer_norm
from vitseg.model.patches import PatchEmbedding
from vitseg.model.rotary import rotation


class VisionTransformer(nn.Module):
    """Flattened patches (B, N, P·P·3) -> tokens (B, N, D) with context from the whole image; `width` is D.

    Learned tokens without a patch come first, where the architecture has them: the class token, then the registers:
    (B, 1 + R + N, D). With several depths, tokens of the last and of earlier blocks lie side by side, each through the last
    norm, as in DINOv2's probes (https://arxiv.org/abs/2304.07193): D is then their width together.
    """

    def __init__(self, arch: Architecture, grid: tuple[int, int]) -> None:
        super().__init__()
        self.embedding = PatchEmbedding(arch, grid)
        self.class_token = nn.Parameter(torch.empty(self.embedding.width)) if arch.class_token else None
        registers = torch.empty(arch.registers, self.embedding.width)
        self.registers = nn.Parameter(registers) if arch.registers else None
        for learned in (self.class_token, self.registers):
            if learned is not None:
                nn.init.trunc_normal_(learned, std=0.02)
        self.pre_norm = layer_norm(arch, self.embedding.width) if arch.pre_norm else nn.Identity()
        self.rotary_width = arch.head_width if arch.position == "rotary" else 0
        self.blocks = nn.ModuleList()
        self.width = self.embedding.width
        for index in range(arch.blocks):
            block = TransformerBlock(arch, self.width, depth=index / max(1, arch.blocks - 1))
            self.blocks.append(block)
            self.width = block.width
        self.norm = layer_norm(arch, self.width)
        self.width = arch.token_width
        self.depths = {round((number + 1) * arch.blocks / arch.depths) for number in range(arch.depths)}
        self.learning = self._learning_parts(arch.encoder)
        self.requires_grad_(self.learning is None)
        for part in self.learning or ():
            part.requires_grad_()
        self.train()  # what does not learn is in evaluation mode from the beginning

    def _learning_parts(self, setting: str | int) -> list[nn.Module] | None:
        """Return the parts that learn, None: all of it."""
        if isinstance(setting, int):
            return [*self.blocks[-setting:], self.norm]
        return [] if setting == "frozen" else None

    def train(self, mode: bool = True) -> "VisionTransformer":
        """Begin or end what is done in training alone, such as drop path; what does not learn stays as in evaluation."""
        super().train(mode and self.learning is None)
        for part in self.learning or ():
            part.train(mode)
        return self

    def forward(self, patches: Tensor, grid: tuple[int, int], visible: Tensor | None = None) -> Tensor:
        """Encode the patches (B, N, P·P·3) of a grid (rows, columns), in row-major order.

        In masked pretraining, `visible` are the indices (B, V) of the only patches to encode: the result has V tokens.
        """
        tokens = self.embedding(patches, grid)
        if visible is not None:
            tokens = tokens.gather(1, visible[..., None].expand(-1, -1, tokens.shape[-1]))
        patch_count, width = tokens.shape[1:]
        learned = [
            token.to(tokens.dtype).expand(tokens.shape[0], token.numel() // width, -1)
            for token in (self.class_token, self.registers)
            if token is not None
        ]
        if learned:
            tokens = torch.cat((*learned, tokens), dim=1)
        tokens = self.pre_norm(tokens)
        context: tuple[Tensor, ...] = ()
        if self.rotary_width:
            context = rotation(grid, self.rotary_width, tokens.shape[1] - patch_count, tokens, visible)
        found = []
        for depth, block in enumerate(self.blocks, start=1):
            tokens = block(tokens, *context)
            if depth in self.depths:
                found.append(self.norm(tokens))
        return found[0] if len(found) == 1 else torch.cat(found, dim=-1)
