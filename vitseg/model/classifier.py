"""The original ViT (https://arxiv.org/abs/2010.11929): the encoder with a classification head.

Shapes: B images of H×W pixels, K classes.
"""

from torch import Tensor, nn

from vitseg.architecture import Architecture
from vitseg.errors import UsageError
from vitseg.model.encoder import VisionTransformer
from vitseg.model.image_model import ImageModel, initialize_linear


class Classifier(ImageModel):
    """Photographs (B, 3, H, W) -> logits (B, K), from the mean of all tokens or from the class token alone.

    The encoder is that of `Segmenter`, and their weights are interchangeable.

    Raises:
        UsageError: the image size is no multiple of the patch size, or `token` is asked for without
            `arch.class_token`.
    """

    def __init__(self, arch: Architecture, image_size: tuple[int, int], classes: int, pool: str = "mean") -> None:
        """Create an untrained network; `pool` is `mean` or `token`."""
        super().__init__(arch, image_size)
        if pool not in ("mean", "token") or classes < 1:
            raise UsageError(f"a classifier pools by mean or token, over 1 class or more, not {pool!r} and {classes}")
        if pool == "token" and not arch.class_token:
            raise UsageError("pooling by the class token needs an encoder with one: set model.class_token=true")
        self.pool = pool
        self.encoder = VisionTransformer(arch, self.grid)
        self.head = nn.Linear(self.encoder.width, classes)
        self.apply(initialize_linear)
        nn.init.zeros_(self.head.weight)  # as in the official ViT: all classes start equal

    def forward(self, images: Tensor) -> Tensor:
        """Classify photographs (B, 3, H, W), uint8 or float, 0–255."""
        patches, grid = self.cut(images)
        tokens = self.encoder(patches, grid)
        pooled = tokens[:, 0] if self.pool == "token" else tokens[:, -patches.shape[1] :].mean(dim=1)
        return self.head(pooled)
