"""The decoder of the paper, "Vision Transformers for Segmentation": an MLP turns each patch into pixels.

The encoder's features say what a patch shows, but not exactly where its edges run. The original patch does, so it is
reintroduced beside the features, as skip connections do in a U-Net.

Shapes: B images of H×W pixels, P side of a patch, N patches.
"""

import torch
from torch import Tensor, nn

from vitseg.architecture import Architecture
from vitseg.model.blocks import Mlp
from vitseg.model.patches import unpatchify


class PatchDecoder(nn.Module):
    """Features (B, N, features_per_patch) and original patches (B, N, P·P·3) -> pixels (B, channels, H, W).

    Each patch is decoded independently of its neighbors, which leaves visible seams at patch borders.
    """

    def __init__(self, arch: Architecture, channels: int) -> None:
        super().__init__()
        self.patch_size = arch.patch_size
        pixels = arch.patch_size**2
        width = arch.features_per_patch + arch.decoder_projection
        self.projection = nn.Linear(pixels * 3, arch.decoder_projection)
        self.mlp = Mlp(width, (*arch.decoder_mlp_units, pixels * channels), arch.dropout)

    def forward(self, features: Tensor, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """Decode each patch from its features and its original pixels."""
        combined = torch.cat((features, self.projection(patches)), dim=-1)
        return unpatchify(self.mlp(combined), grid, self.patch_size)

    @property
    def head(self) -> nn.Linear:
        """The layer that writes pixels."""
        last = self.mlp.layers[-1]
        assert isinstance(last, nn.Linear)
        return last
