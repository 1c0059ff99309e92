"""A linear layer on the encoder's tokens, interpolated to pixels: the yardstick of what an encoder knows.

It is how published encoders are compared, as in DINOv2 (https://arxiv.org/abs/2304.07193, section 7.4): what such a decoder
shows was in the features already. A better decoder has to beat it.

Shapes: B images of H×W pixels, N encoder tokens of width E.
"""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vitseg.architecture import Architecture


class LinearDecoder(nn.Module):
    """Encoder tokens (B, N, E) -> pixels (B, channels, H, W); original patches are not looked at."""

    def __init__(self, arch: Architecture, channels: int) -> None:
        super().__init__()
        self.patch_size = arch.patch_size
        self.head = nn.Linear(arch.token_width, channels)

    def forward(self, tokens: Tensor, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """Decode the tokens of a grid (rows, columns): one vector of logits each, which are interpolated to pixels."""
        logits = self.head(tokens.flatten(0, 1))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        image = rearrange(logits, "(b h w) c -> b c h w", h=grid[0], w=grid[1])
        return F.interpolate(image, scale_factor=self.patch_size, mode="bilinear", align_corners=False)
