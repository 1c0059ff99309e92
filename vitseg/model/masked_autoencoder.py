"""A masked autoencoder (https://arxiv.org/abs/2111.06377): it trains the encoder on photographs without labels.

Most patches are hidden. The encoder gets the others, and a small decoder, discarded after training, predicts the pixels
of the hidden ones. Which patches are hidden is a function of the seed, the step and the photograph's key: the same for
any number of ranks, and after a restart.

Shapes: B images of H×W pixels, P side of a patch, N patches, V of them visible, D width of a token.
"""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from vitseg.architecture import Architecture
from vitseg.model.blocks import TransformerBlock
from vitseg.model.encoder import VisionTransformer
from vitseg.model.encoder_bundle import EncoderBundle
from vitseg.model.image_model import ImageModel, initialize_linear, seeded
from vitseg.recipe import MaskedRecipe

_HEAD_WIDTH = 32
_EPSILON = 1e-6  # added to a patch's variance, which is 0 in a patch of one color


class MaskedAutoencoder(ImageModel):
    """Photographs (B, 3, H, W) and the indices of their visible patches (B, V) -> all patches (B, N, P·P·3).

    Raises:
        UsageError: the image size is no multiple of the patch size.
    """

    def __init__(self, arch: Architecture, image_size: tuple[int, int], masked: MaskedRecipe) -> None:
        super().__init__(arch, image_size)
        self.patches = self.grid[0] * self.grid[1]
        width = masked.decoder_width
        light = dataclasses.replace(
            arch, heads=width // _HEAD_WIDTH, head_width=_HEAD_WIDTH, mlp_units=(4 * width, width),
            normalization="layer", skip_projection=False, dropout=0.0, stochastic_depth=0.0, layer_scale=0.0,
            activation="gelu",
        )  # fmt: skip
        self.encoder = VisionTransformer(arch, self.grid)
        self.embedding = nn.Linear(self.encoder.width, width)
        self.mask_token = nn.Parameter(torch.empty(width))
        self.decoder_position = nn.Parameter(torch.empty(self.patches, width))
        self.decoder = nn.ModuleList(TransformerBlock(light, width) for _ in range(masked.decoder_blocks))
        self.norm = nn.LayerNorm(width, eps=arch.norm_epsilon)
        self.prediction = nn.Linear(width, arch.patch_size**2 * 3)
        self.apply(initialize_linear)
        for parameter in (self.mask_token, self.decoder_position):
            nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, images: Tensor, visible: Tensor) -> Tensor:
        """Predict all patches of photographs (0–255), as `normalize_patches` gives them, from the visible ones."""
        encoded = self.embedding(self.encoder(*self.cut(images), visible))
        without_patch, encoded = encoded[:, : -visible.shape[1]], encoded[:, -visible.shape[1] :]
        tokens = self.mask_token.to(encoded.dtype).expand(len(encoded), self.patches, -1)
        tokens = tokens.scatter(1, visible[..., None].expand_as(encoded), encoded)
        tokens = torch.cat((without_patch, tokens + self.decoder_position.to(encoded.dtype)), dim=1)
        for block in self.decoder:
            tokens = block(tokens)
        return self.prediction(self.norm(tokens[:, -self.patches :]))

    def loss(self, predicted: Tensor, images: Tensor, visible: Tensor) -> Tensor:
        """Return the mean squared error of each hidden patch, summed over patches; float32."""
        patches, _ = self.cut(images)
        error = (predicted.float() - normalize_patches(patches)[0]).square().mean(-1)
        return (error * self.hidden(visible)).sum()

    def hidden(self, visible: Tensor) -> Tensor:
        """Return bool (B, N): True for patches that are not among the visible ones (B, V)."""
        hidden = torch.ones(len(visible), self.patches, dtype=torch.bool, device=visible.device)
        return hidden.scatter(1, visible, False)

    def encoder_bundle(self) -> EncoderBundle:
        """Return the encoder alone, from which a segmenter can start."""
        state = {f"encoder.{name}": tensor for name, tensor in self.encoder.state_dict().items()}
        return EncoderBundle(state, self.architecture, self.image_size)


def build_masked(arch: Architecture, image_size: tuple[int, int], masked: MaskedRecipe, seed: int) -> MaskedAutoencoder:
    """Create an untrained autoencoder, as `segmenter.build_model` does."""
    with seeded(seed):
        return MaskedAutoencoder(arch, image_size, masked)


def normalize_patches(patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scale each patch (B, N, P·P·3) to mean 0 and variance 1; return it, its mean and its deviation (B, N, 1)."""
    patches = patches.float()
    mean = patches.mean(-1, keepdim=True)
    deviation = (patches.var(-1, keepdim=True) + _EPSILON).sqrt()
    return (patches - mean) / deviation, mean, deviation


def visible_patches(keys: Sequence[str], patches: int, ratio: float, *, seed: int, step: int) -> Tensor:
    """Choose at random which of N patches of each photograph, by its key, stay visible: int64 (B, V), ascending.

    `ratio` is the share that is hidden: at least one patch is hidden, and at least one visible. Each step hides others.
    """
    count = min(max(1, patches - round(ratio * patches)), patches - 1)
    rows = [np.sort(np.argsort(_random_bits(key, patches, seed, step), kind="stable")[:count]) for key in keys]
    return torch.from_numpy(np.stack(rows).astype(np.int64))


def _random_bits(key: str, count: int, seed: int, step: int) -> np.ndarray:
    # The raw output of PCG64, which NumPy never changes.
    name = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    return np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(step, name))).random_raw(count)
