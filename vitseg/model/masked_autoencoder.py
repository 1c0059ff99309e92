"""A masked autoencoder around the encoder: it learns from photographs without labels.

Most patches of a photograph are hidden; the encoder sees the rest, and a small decoder, thrown away afterwards, has to
draw what is hidden (https://arxiv.org/abs/2111.06377). Which patches are hidden is a function of seed, step and the
photograph's key: the same on any number of ranks, and after a restart.
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
from vitseg.model.image_model import ImageModel, initialize_linear
from vitseg.recipe import MaskedRecipe

_HEAD_WIDTH = 32
_EPSILON = 1e-6  # added to a patch's variance: a patch of one color has none


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
        """Draw all patches of photographs (0–255) from those that are visible, each normalized by itself."""
        patches, grid = self.cut(images)
        tokens = _take(self.encoder.embedding(patches, grid), visible)
        if self.encoder.class_token is not None:
            first = self.encoder.class_token.to(tokens.dtype).expand(len(tokens), 1, -1)
            tokens = torch.cat((first, tokens), dim=1)
        for block in self.encoder.blocks:
            tokens = block(tokens)
        seen = self.embedding(self.encoder.norm(tokens))
        seen, extra = seen[:, -visible.shape[1] :], seen[:, : -visible.shape[1]]
        everything = self.mask_token.to(seen.dtype).expand(len(seen), self.patches, -1)
        everything = everything.scatter(1, visible[..., None].expand_as(seen), seen)
        everything = torch.cat((extra, everything + self.decoder_position.to(seen.dtype)), dim=1)
        for block in self.decoder:
            everything = block(everything)
        return self.prediction(self.norm(everything[:, -self.patches :]))

    def loss(self, drawn: Tensor, images: Tensor, visible: Tensor) -> Tensor:
        """Return the squared error of hidden patches, a mean over the values of each, summed over patches; float32."""
        patches, _ = self.cut(images)
        error = (drawn.float() - normalize_patches(patches)[0]).square().mean(-1)
        return (error * self.hidden(visible)).sum()

    def hidden(self, visible: Tensor) -> Tensor:
        """Return bool (B, N): which patches are not among the visible ones (B, V)."""
        everything = torch.ones(len(visible), self.patches, dtype=torch.bool, device=visible.device)
        return everything.scatter(1, visible, False)

    def encoder_bundle(self) -> EncoderBundle:
        """Return the encoder alone, for a segmenter to start from."""
        state = {f"encoder.{name}": tensor for name, tensor in self.encoder.state_dict().items()}
        return EncoderBundle(state, self.architecture, self.image_size)


def build_masked(arch: Architecture, image_size: tuple[int, int], masked: MaskedRecipe, seed: int) -> MaskedAutoencoder:
    """Make an untrained autoencoder on the CPU: equal arguments, equal weights; global random state is untouched.

    Raises:
        UsageError: see `MaskedAutoencoder`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return MaskedAutoencoder(arch, image_size, masked)


def normalize_patches(patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Bring each patch (B, N, P·P·3) to mean 0 and variance 1; return that, its means and its deviations (B, N, 1)."""
    patches = patches.float()
    mean = patches.mean(-1, keepdim=True)
    deviation = (patches.var(-1, keepdim=True) + _EPSILON).sqrt()
    return (patches - mean) / deviation, mean, deviation


def visible_patches(keys: Sequence[str], patches: int, ratio: float, *, seed: int, step: int) -> Tensor:
    """Choose by chance which patches of each photograph stay visible: int64 (B, V), ascending.

    Args:
        keys: of the photographs.
        patches: of each, N.
        ratio: share of them that is hidden; at least one is, and at least one is not.
        seed: of the whole run.
        step: of the optimizer; each hides others.
    """
    count = min(max(1, patches - round(ratio * patches)), patches - 1)
    rows = [np.sort(np.argsort(_raw(key, patches, seed, step), kind="stable")[:count]) for key in keys]
    return torch.from_numpy(np.stack(rows).astype(np.int64))


def _raw(key: str, count: int, seed: int, step: int) -> np.ndarray:
    # Raw output of PCG64, which NumPy keeps stable for ever, as the order of samples is.
    name = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    return np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(step, name))).random_raw(count)


def _take(tokens: Tensor, indices: Tensor) -> Tensor:
    """Take (B, V, D) of tokens (B, N, D)."""
    return tokens.gather(1, indices[..., None].expand(-1, -1, tokens.shape[-1]))
