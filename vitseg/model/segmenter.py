"""The whole network, from the photograph's bytes to scores of classes, or to a colour image, of the same size."""

import torch
from torch import Tensor, nn

from vitseg.errors import DataError, UsageError
from vitseg.model.decoder import PixelDecoder
from vitseg.model.encoder import VisionTransformer
from vitseg.model.patches import patch_grid, patchify, unpatchify
from vitseg.recipe import Architecture

# In the 0–1 scale. Fixed, not measured: a model keeps its input when its data set grows.
PIXEL_MEAN = (0.5, 0.5, 0.5)
PIXEL_STD = (0.25, 0.25, 0.25)


class Segmenter(nn.Module):
    """A convolution-free Vision Transformer for images of one size.

    Pixels are normalised inside, by buffers that travel with the weights: training and serving can't differ.

    Raises:
        UsageError: the image size is no multiple of the patch size, or there are not 1 to 255 classes; none is right
            for target `rgb`, whose output is an image.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, arch: Architecture, image_size: tuple[int, int], classes: int) -> None:
        super().__init__()
        if not (1 if arch.target == "classes" else 0) <= classes <= 255:
            raise UsageError(
                f"a model has 1 (a thing and the rest) to 255 classes, not {classes}: images need target rgb"
            )
        self.architecture = arch
        self.image_size = image_size
        self.classes = classes
        self.grid = patch_grid(image_size, arch.patch_size)
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN))
        self.register_buffer("std", torch.tensor(PIXEL_STD))
        self.encoder = VisionTransformer(arch, tokens=self.grid[0] * self.grid[1])
        self.decoder = PixelDecoder(arch, channels=classes if arch.target == "classes" else 3)
        self.apply(_initialise)
        # Nearly nothing is claimed before anything is learned: all classes equal, or mid-grey.
        head = self.decoder.mlp.layers[-1]
        assert isinstance(head, nn.Linear)
        nn.init.trunc_normal_(head.weight, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Segment photographs (B, 3, H, W), uint8 or float, 0–255.

        Returns:
            Target `classes`: logits (B, K, H, W); one class is binary, its logit is that of the thing. Target `rgb`:
            the colour image (B, 3, H, W), 0–1. Both lie in memory as `channels_last`.

        Raises:
            DataError: the images are not of the size the network was made for.
        """
        if images.shape[1:] != (3, *self.image_size):
            raise DataError(f"the model takes images (3, *{self.image_size}), not {tuple(images.shape[1:])}")
        patches = patchify(self.normalise(images), self.architecture.patch_size)
        features = self.encoder(patches)
        pixels = unpatchify(self.decoder(features, patches), self.grid, self.architecture.patch_size)
        return pixels.sigmoid() if self.architecture.target == "rgb" else pixels

    def normalise(self, images: Tensor) -> Tensor:
        """Bring pixels (B, 3, H, W) from 0–255 to about -2 – 2."""
        scale = 1 / (255 * self.std)
        return images.to(scale.dtype) * scale[:, None, None] - (self.mean / self.std)[:, None, None]


def build_model(arch: Architecture, image_size: tuple[int, int], classes: int, seed: int) -> Segmenter:
    """Make an untrained network on the CPU: equal arguments, equal weights; the global random state is untouched.

    Raises:
        UsageError: see `Segmenter`.
    """
    with torch.random.fork_rng(devices=[]):  # no torch.manual_seed: that reaches the GPUs' generators too
        torch.default_generator.manual_seed(seed)
        return Segmenter(arch, image_size, classes)


def class_scores(output: Tensor, palette: Tensor, target: str) -> Tensor:
    """Return scores (B, K, H, W) whose argmax is the class, from what a network of either target says.

    The one logit z of a binary network becomes (z, 0): thing where it is positive, and softmax gives sigmoid(z).

    Args:
        output: of `Segmenter.forward`.
        palette: colours of train ids, 0–255, (K, 3).
        target: `classes`: the output is the scores; `rgb`: a score is minus the distance to a class's colour.
    """
    if target == "classes":
        scores = output.float()
        return scores if scores.shape[1] > 1 else torch.cat([scores, torch.zeros_like(scores)], dim=1)
    colors = palette.to(output.device, torch.float32) / 255
    distances = [torch.linalg.vector_norm(output.float() - color[:, None, None], dim=1) for color in colors]
    return -torch.stack(distances, dim=1)


def _initialise(module: nn.Module) -> None:
    """Set linear layers as the official ViT does. Narrow layers learn much slower from a fixed deviation of 0.02."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
