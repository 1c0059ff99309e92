"""The whole network, from the photograph's bytes to scores of classes, or to a color image, of the same size."""

import torch
from torch import Tensor, nn

from vitseg.architecture import Architecture
from vitseg.errors import DataError, UsageError
from vitseg.model.encoder import VisionTransformer
from vitseg.model.overlap_decoder import OverlapDecoder
from vitseg.model.patch_decoder import PatchDecoder
from vitseg.model.patches import patch_grid, patchify
from vitseg.model.spiral_decoder import SpiralDecoder

# In the 0–1 scale. Fixed, not measured: a model keeps its input when its data set grows.
PIXEL_MEAN = (0.5, 0.5, 0.5)
PIXEL_STD = (0.25, 0.25, 0.25)

Decoder = PatchDecoder | OverlapDecoder | SpiralDecoder
_DECODERS: dict[str, type[Decoder]] = {"patch": PatchDecoder, "overlap": OverlapDecoder, "spiral": SpiralDecoder}


class PhotoNetwork(nn.Module):
    """What takes photographs and cuts them to patches.

    Pixels are normalized inside, by what travels with the weights: training and serving can't differ.
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
        """Normalize photographs (B, 3, H, W), 0–255, and cut them: patches (B, N, P·P·3) and their grid.

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
        """Bring pixels (B, 3, H, W) from 0–255 to mean 0 and deviation 1, roughly or exactly: see `Architecture.pixels`.

        Args:
            images: the photographs, or windows of one.
            moments: mean and deviation of the photograph that these are windows of.
        """
        if self.architecture.pixels == "image":
            return standardize(images.to(self.std.dtype), moments)
        scale = 1 / (255 * self.std)
        return images.to(scale.dtype) * scale[:, None, None] - (self.mean / self.std)[:, None, None]


def standardize(images: Tensor, moments: tuple[float, float] | None = None) -> Tensor:
    """Bring each image of float (B, 3, H, W), 0–255, to mean 0 and deviation 1 over all its pixels and channels.

    The channels together, so that colors keep their balance. An image of one gray becomes 0. `moments`, mean and
    deviation, replace those of each image.
    """
    mean: Tensor | float
    std: Tensor | float
    if moments is None:
        std, mean = torch.std_mean(images, dim=(1, 2, 3), correction=0, keepdim=True)
    else:
        mean, std = moments
    return (images - mean) / (std + 1)  # one step of 255: noise in a black image stays small


class Segmenter(PhotoNetwork):
    """A convolution-free Vision Transformer that says something about every pixel.

    It is made, and best, for images of one size, and takes others whose sides are multiples of the patch size.

    Raises:
        UsageError: the image size is no multiple of the patch size, or there are not 1 to 255 classes; none is right
            for target `rgb`, whose output is an image.
    """

    def __init__(self, arch: Architecture, image_size: tuple[int, int], classes: int) -> None:
        super().__init__(arch, image_size)
        if not (1 if arch.target == "classes" else 0) <= classes <= 255:
            raise UsageError(
                f"a model has 1 (a thing and the rest) to 255 classes, not {classes}: images need target rgb"
            )
        self.classes = classes
        self.encoder = VisionTransformer(arch, self.grid)
        self.features = nn.Linear(self.encoder.width, arch.features_per_patch)
        self.teacher_forcing = arch.decoder == "spiral"
        self.channels = classes if arch.target == "classes" else 3
        self.decoder: Decoder = _DECODERS[arch.decoder](arch, self.channels)
        self.apply(initialize)
        # Nearly nothing is claimed before anything is learned: all classes equal, or mid-gray. Ours claims so little that
        # chance draws no combs into each patch later on, where two classes are nearly as likely.
        nn.init.trunc_normal_(self.decoder.head.weight, std=0.002 if arch.decoder == "overlap" else 0.02)

    def forward(
        self, images: Tensor, targets: Tensor | None = None, moments: tuple[float, float] | None = None
    ) -> Tensor:
        """Segment photographs (B, 3, H, W), uint8 or float, 0–255.

        Args:
            images: the photographs.
            targets: in training, if `teacher_forcing`: (B, K, H, W) one-hot or (B, 3, H, W) 0–1; never in evaluation.
                An argument, not an attribute: DDP passes on what goes through forward.
            moments: mean and deviation of the photograph that these are windows of, 0–255.

        Returns:
            Target `classes`: logits (B, K, H, W); one class is binary, its logit is that of the thing. Target `rgb`:
            the color image (B, 3, H, W), 0–1. Both lie in memory as `channels_last`.

        Raises:
            DataError: a side of the images is no multiple of the patch size.
        """
        patches, grid = self.cut(images, moments)
        tokens = self.encoder(patches, grid)
        features = self.features(tokens[:, -patches.shape[1] :])  # without a class token, which comes first
        pixels = self.decoder(features, patches, grid, *(() if targets is None else (targets,)))
        return pixels.sigmoid() if self.architecture.target == "rgb" else pixels


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
        palette: colors of train ids, 0–255, (K, 3).
        target: `classes`: the output is the scores; `rgb`: a score is minus the distance to a class's color.
    """
    if target == "classes":
        scores = output.float()
        return scores if scores.shape[1] > 1 else torch.cat([scores, torch.zeros_like(scores)], dim=1)
    colors = palette.to(output.device, torch.float32) / 255
    distances = [torch.linalg.vector_norm(output.float() - color[:, None, None], dim=1) for color in colors]
    return -torch.stack(distances, dim=1)


def initialize(module: nn.Module) -> None:
    """Set linear layers as the official ViT does. Narrow layers learn much slower from a fixed deviation of 0.02."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
