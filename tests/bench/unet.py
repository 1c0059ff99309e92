"""The baseline: a plain U-Net (https://arxiv.org/abs/1505.04597), with batch normalization, which is younger.

It has the only convolutions of the project.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitseg.model.image_model import standardize


class UNet(nn.Module):
    """Photographs (B, 3, H, W), 0–255 -> logits (B, K, H, W); sides are multiples of 16."""

    def __init__(self, classes: int, width: int = 32) -> None:
        super().__init__()
        self.teacher_forcing = False
        widths = [width * 2**level for level in range(5)]
        self.down = nn.ModuleList(double(a, b) for a, b in zip([3, *widths], widths, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * a, a, 2, 2) for a in widths[:-1])
        self.merge = nn.ModuleList(double(2 * a, a) for a in widths[:-1])
        self.head = nn.Conv2d(width, classes, 1)
        self.to(memory_format=torch.channels_last)  # twice as fast on a CPU and on a GPU with tensor cores

    def forward(self, images: Tensor) -> Tensor:
        """Segment photographs, normalized as the presets `tiny`, `small` and `base` do it."""
        x = standardize(images.float()).contiguous(memory_format=torch.channels_last)
        levels = []
        for depth, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if depth else x)
            levels.append(x)
        for depth in reversed(range(len(self.up))):
            x = self.merge[depth](torch.cat((levels[depth], self.up[depth](x)), dim=1))
        return self.head(x)


def double(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions of 3×3, each normalized."""

    def single(a: int, b: int) -> list[nn.Module]:
        return [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]

    return nn.Sequential(*single(inputs, outputs), *single(outputs, outputs))
