"""The paper's decoder: as in a U-Net the original patches come back, and each is turned into pixels by an MLP.

The encoder knows what a patch shows but has lost where its edges run; the patch itself still has them.
"""

import torch
from torch import Tensor, nn

from vitseg.architecture import Architecture
from vitseg.model.blocks import Mlp
from vitseg.model.patches import unpatchify


class PatchDecoder(nn.Module):
    """Features (B, N, features_per_patch) and original patches (B, N, P·P·3) -> pixels (B, channels, H, W).

    Each patch is painted without a look at its neighbors: the stripes at patch borders that the paper shows.
    """

    def __init__(self, arch: Architecture, channels: int) -> None:
        super().__init__()
        self.patch_size = arch.patch_size
        pixels = arch.patch_size**2
        width = arch.features_per_patch + arch.decoder_projection
        self.projection = nn.Linear(pixels * 3, arch.decoder_projection)
        self.mlp = Mlp(width, (*arch.decoder_mlp_units, pixels * channels), arch.dropout)

    def forward(self, features: Tensor, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """Combine what is known about each patch with the patch itself."""
        combined = torch.cat((features, self.projection(patches)), dim=-1)
        return unpatchify(self.mlp(combined), grid, self.patch_size)

    @property
    def head(self) -> nn.Linear:
        """The layer that writes pixels."""
        last = self.mlp.layers[-1]
        assert isinstance(last, nn.Linear)
        return last
