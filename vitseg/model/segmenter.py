"""The whole network: from photographs to class scores, or color images, of the same size.

Shapes: B images of H×W pixels, K classes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitseg.architecture import Architecture
from vitseg.errors import UsageError
from vitseg.model.attention_decoder import AttentionDecoder
from vitseg.model.convolutional_decoder import ConvolutionalDecoder
from vitseg.model.encoder import VisionTransformer
from vitseg.model.image_model import ImageModel, initialize_linear, seeded
from vitseg.model.linear_decoder import LinearDecoder
from vitseg.model.patch_decoder import PatchDecoder
from vitseg.model.spiral_decoder import SpiralDecoder

Decoder = PatchDecoder | AttentionDecoder | LinearDecoder | SpiralDecoder | ConvolutionalDecoder
_DECODERS: dict[str, type[Decoder]] = {
    "patch": PatchDecoder, "attention": AttentionDecoder, "linear": LinearDecoder, "spiral": SpiralDecoder,
    "overlap": ConvolutionalDecoder,
}  # fmt: skip


class Segmenter(ImageModel):
    """A convolution-free Vision Transformer for semantic segmentation or image regression.

    It is trained for one image size, and takes every other whose sides are multiples of the patch size.

    Raises:
        UsageError: the image size is no multiple of the patch size, or there are not 1 to 255 classes; target `rgb`
            may have none.
    """

    def __init__(self, arch: Architecture, image_size: tuple[int, int], classes: int) -> None:
        super().__init__(arch, image_size)
        if not (1 if arch.target == "classes" else 0) <= classes <= 255:
            raise UsageError(f"a model has 1 (binary) to 255 classes, not {classes}: images need target rgb")
        self.classes = classes
        self.encoder = VisionTransformer(arch, self.grid)
        # These two take the tokens themselves.
        self.features: nn.Module = nn.Identity()
        if arch.decoder not in ("attention", "linear"):
            self.features = nn.Linear(self.encoder.width, arch.features_per_patch)
        self.teacher_forcing = arch.decoder == "spiral"
        self.channels = classes if arch.target == "classes" else 3
        self.decoder = _DECODERS[arch.decoder](arch, self.channels)
        self.apply(initialize_linear)
        # Start with all classes about equally likely, or with gray. Where tokens share out the pixels, the start is closer
        # still to equal: larger random weights leave a pattern in each patch wherever two classes stay nearly as likely.
        alone = arch.decoder in ("patch", "spiral")
        nn.init.trunc_normal_(self.decoder.head.weight, std=0.02 if alone else 0.002)

    def forward(
        self,
        images: Tensor,
        targets: Tensor | None = None,
        moments: tuple[float, float] | None = None,
        tokens: Tensor | None = None,
    ) -> Tensor:
        """Segment photographs (B, 3, H, W), uint8 or float, 0–255.

        Args:
            images: the photographs.
            targets: for training with `teacher_forcing`: (B, K, H, W) one-hot or (B, 3, H, W) 0–1; never in evaluation.
                An argument, not an attribute, because DDP only handles what goes through forward.
            moments: if these are windows of a photograph, its mean and deviation, 0–255.
            tokens: what `encode` returned for them, if that is known; then the encoder has nothing to do.

        Returns:
            Target `classes`: logits (B, K, H, W); a binary model has the foreground's logit alone. Target `rgb`: color
            images (B, 3, H, W), 0–1. Both are `channels_last` in memory.

        Raises:
            DataError: a side of the images is no multiple of the patch size.
        """
        patches, grid = self.cut(images, moments)
        tokens = self._encode(patches, grid) if tokens is None else tokens.to(patches.dtype)
        features = self.features(tokens)
        pixels = self.decoder(features, patches, grid, *(() if targets is None else (targets,)))
        return pixels.sigmoid() if self.architecture.target == "rgb" else pixels

    def encode(self, images: Tensor) -> Tensor:
        """Return the encoder's tokens of the patches (B, N, E) of photographs (B, 3, H, W)."""
        return self._encode(*self.cut(images))

    def _encode(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        return self.encoder(patches, grid)[:, -patches.shape[1] :]  # without tokens of no patch, which come first


def build_model(arch: Architecture, image_size: tuple[int, int], classes: int, seed: int) -> Segmenter:
    """Create an untrained network on the CPU: equal arguments give equal weights; global random state is untouched."""
    with seeded(seed):
        return Segmenter(arch, image_size, classes)


def class_scores(output: Tensor, palette: Tensor, target: str) -> Tensor:
    """Return scores (B, K, H, W) whose argmax is the class, from the output of a network of either target.

    The one logit z of a binary network becomes (z, 0): foreground where it is positive, and softmax gives sigmoid(z).
    For target `rgb`, a score is minus the distance to the color of the class in the palette (K, 3), 0–255.
    """
    if target == "classes":
        scores = output.float()
        return scores if scores.shape[1] > 1 else torch.cat([scores, torch.zeros_like(scores)], dim=1)
    colors = palette.to(output.device, torch.float32) / 255
    distances = [torch.linalg.vector_norm(output.float() - color[:, None, None], dim=1) for color in colors]
    return -torch.stack(distances, dim=1)


def scaled_to(output: Tensor, like: Tensor) -> Tensor:
    """Return scores or colors (B, C, h, w) scaled bilinearly to the height and width of labels or images (…, H, W)."""
    size = like.shape[-2:]
    return output if output.shape[-2:] == size else F.interpolate(output.float(), size, mode="bilinear")
