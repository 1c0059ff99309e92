"""What every network here begins with: photographs, normalized and cut to patches.

Shapes: B images of H×W pixels, P side of a patch, N patches.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vitseg.architecture import Architecture
from vitseg.errors import DataError
from vitseg.model.patches import patch_grid, patchify

# In the 0–1 scale. Fixed, not measured: a model keeps its input when its data set grows.
PIXEL_MEAN = (0.5, 0.5, 0.5)
PIXEL_STD = (0.25, 0.25, 0.25)


class ImageModel(nn.Module):
    """Base of networks that take photographs as bytes.

    Pixels are normalized inside, by numbers that are stored with the weights, so training and serving can't differ.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, arch: Architecture, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.architecture = arch
        self.image_size = image_size
        self.grid = patch_grid(image_size, arch.patch_size)
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN))
        self.register_buffer("std", torch.tensor(PIXEL_STD))

    def cut(self, images: Tensor, moments: tuple[float, float] | None = None) -> tuple[Tensor, tuple[int, int]]:
        """Normalize photographs (B, 3, H, W), 0–255, and return their patches (B, N, P·P·3) and grid (rows, columns).

        Raises:
            DataError: the images are not of three channels, or a side is no multiple of the patch size.
        """
        patch_size = self.architecture.patch_size
        height, width = images.shape[-2:]
        if images.ndim != 4 or images.shape[1] != 3 or height % patch_size or width % patch_size:
            raise DataError(
                f"the model takes images (3, {patch_size}·n, {patch_size}·m), not {tuple(images.shape[1:])}"
            )
        return patchify(self.normalize(images, moments), patch_size), (height // patch_size, width // patch_size)

    def normalize(self, images: Tensor, moments: tuple[float, float] | None = None) -> Tensor:
        """Scale pixels (B, 3, H, W) from 0–255 to about mean 0 and deviation 1, as `Architecture.pixels` says.

        If the images are windows of a photograph, `moments` are its mean and deviation.
        """
        if self.architecture.pixels == "image":
            return standardize(images.to(self.std.dtype), moments)
        scale = 1 / (255 * self.std)
        return images.to(scale.dtype) * scale[:, None, None] - (self.mean / self.std)[:, None, None]


def standardize(images: Tensor, moments: tuple[float, float] | None = None) -> Tensor:
    """Scale each image of float (B, 3, H, W), 0–255, to mean 0 and deviation 1.

    Mean and deviation are those of all channels together, which keeps the color balance, or the given `moments`. An
    image of one gray becomes 0.
    """
    mean: Tensor | float
    std: Tensor | float
    if moments is None:
        std, mean = torch.std_mean(images, dim=(1, 2, 3), correction=0, keepdim=True)
    else:
        mean, std = moments
    return (images - mean) / (std + 1)  # + 1 of 255: noise in a black image stays small


def initialize_linear(module: nn.Module) -> None:
    """Initialize linear layers as the official ViT does; from a fixed deviation of 0.02 narrow layers learn much slower."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Make the random weights of the block a function of the seed; global random state is untouched."""
    with torch.random.fork_rng(devices=[]):  # not torch.manual_seed, which sets the GPUs' generators too
        torch.default_generator.manual_seed(seed)
        yield
