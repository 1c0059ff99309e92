"""The network's numbers, checked when they are set. `recipe` holds everything else that a training job computes from."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from vitseg.errors import UsageError

STRICT = ConfigDict(strict=True)
"""Of all sections of a recipe: neither "3" nor 3.0 nor true is taken for the whole number 3."""
Count = Annotated[int, Field(ge=1)]
Depth = Annotated[int, Field(ge=1, le=512)]
"""Number of blocks or heads. A bundle comes from outside: its network must not be larger than any real one."""
Width = Annotated[int, Field(ge=1, le=2**16)]
"""Width of a layer, or side of a patch, pixels."""
Share = Annotated[float, Field(ge=0, lt=1)]


def require(condition: bool, message: str) -> None:
    """Refuse what a user has set.

    Raises:
        UsageError: the condition does not hold.
    """
    if not condition:
        raise UsageError(message)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Architecture:
    """The numbers of the network, named as in the paper's table of parameters (its Fig. 7)."""

    patch_size: Width = 16
    """Side of the square patches, pixels."""
    pixels: Literal["fixed", "image"] = "fixed"
    """How pixels are normalized: `fixed`, by numbers equal for all; `image`, by each photograph's own mean and deviation,
    so that how bright a camera or a day was does not matter."""
    spatial_embedding: Width = 8
    """Width of the learned embedding of a patch's position, concatenated to its projection."""
    position: Literal["concat", "add"] = "concat"
    """How the spatial embedding joins: `concat` as in the paper, `add` as in the original ViT."""
    encoder_projection: Width = 128
    """Width to which a flattened patch is projected."""
    blocks: Depth = 4
    """Number of Transformer blocks."""
    heads: Depth = 8
    """Attention heads a block."""
    head_width: Width = 16
    """Width of the query, key and value of one head."""
    mlp_units: Annotated[tuple[Width, ...], Field(min_length=1, max_length=64)] = (512, 1024)
    """Widths of the MLP of each Transformer block; tokens leave a block as wide as the last of them."""
    features_per_patch: Width = 32
    """Width of what the encoder says about each patch."""
    decoder_projection: Width = 128
    """Width to which the original patch is projected where it is reintroduced."""
    decoder_mlp_units: Annotated[tuple[Width, ...], Field(max_length=64)] = (512, 512, 512)
    """Widths of the MLP that turns features and patch into pixels."""
    skip_projection: bool = False
    """Whether the skip path around each block's MLP is a linear layer even where it changes no width: the paper's."""
    normalization: Literal["layer", "none"] = "layer"
    """`layer`: LayerNorm before attention, MLPs and features; `none`: nowhere."""
    norm_epsilon: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    """What LayerNorm adds to the variance; published weights bring theirs (timm 1e-6, Hugging Face's ViT 1e-12)."""
    class_token: bool = False
    """Whether a learned token without a patch runs along, as in the original ViT."""
    dropout: Share = 0.0
    """Share of activations dropped in training, 0–1."""
    stochastic_depth: Share = 0.0
    """Share of images for which the last block is left out in training, 0–1; earlier blocks less, in proportion."""
    layer_scale: Annotated[float, Field(ge=0)] = 0.0
    """Start of the learned factor on what attention and MLP add (CaiT); 0: no such factor."""
    decoder: Literal["patch", "overlap", "spiral"] = "patch"
    """`patch`: the paper's, each patch by itself; `overlap`: ours, without seams; `spiral`: patch after patch."""
    fine_patch: Annotated[int, Field(ge=0, le=2**16)] = 0
    """Decoder `overlap`: side of the finer patches it works on, pixels, a divisor of `patch_size`; 0: `patch_size`."""
    fine_width: Width = 64
    """Decoder `overlap`: width of the finer tokens."""
    fine_blocks: Annotated[int, Field(ge=0, le=512)] = 0
    """Decoder `overlap`: blocks of attention among neighbors on the finer grid."""
    fine_heads: Depth = 2
    """Decoder `overlap`: heads of these blocks."""
    fine_radius: Depth = 2
    """Decoder `overlap`: how many steps away on the finer grid a neighbor may be."""
    narrow_width: Width = 64
    """Decoder `overlap`: width to which finer tokens are narrowed before each writes its square of pixels."""
    spiral_blocks: Depth = 2
    """Decoder `spiral`: number of its blocks."""
    target: Literal["classes", "rgb"] = "classes"
    """`classes`: scores a class and pixel; `rgb`: the color image itself, 0–1."""

    def __post_init__(self) -> None:
        """Check what several numbers have to do with each other."""
        fine = self.fine_patch or self.patch_size
        require(self.patch_size % fine == 0, "model.fine_patch must divide model.patch_size")
        # Fine patches overlap by half of one, in whole pixels.
        even = self.decoder != "overlap" or fine % 2 == 0
        require(even, f"model.fine_patch = {fine} must be even: set one that is, and divides patch_size")
        require(self.fine_width % self.fine_heads == 0, "model.fine_width must be a multiple of model.fine_heads")
