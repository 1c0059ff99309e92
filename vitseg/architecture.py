"""The network's numbers, checked when they are set. `recipe` holds everything else that a training job computes from."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from vitseg.errors import UsageError

STRICT = ConfigDict(strict=True)
"""For all sections of a recipe: neither "3" nor 3.0 nor true is accepted for an integer."""
Count = Annotated[int, Field(ge=1)]
Depth = Annotated[int, Field(ge=1, le=512)]
"""Number of blocks or heads. It has a limit because bundles come from outside."""
Width = Annotated[int, Field(ge=1, le=2**16)]
"""Width of a layer, or side of a patch, pixels."""
Share = Annotated[float, Field(ge=0, lt=1)]


def require(condition: bool, message: str) -> None:
    """Raise a UsageError where the condition on what a user has set does not hold."""
    if not condition:
        raise UsageError(message)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Architecture:
    """The numbers of the network, named as in the paper's table of parameters (its Fig. 7)."""

    patch_size: Width = 16
    """Side of the square patches, pixels."""
    pixels: Literal["fixed", "image"] = "fixed"
    """How pixels are normalized: `fixed`, by numbers equal for all; `image`, by each photograph's own mean and deviation,
    so that the brightness of the camera or the day does not matter."""
    spatial_embedding: Width = 8
    """Width of the learned embedding of a patch's position, with `position` = `concat`."""
    position: Literal["concat", "add", "rotary"] = "concat"
    """How tokens know their position: its learned embedding is combined with the projection, by `concat` as in the paper or
    `add` as in the original ViT; `rotary`: queries and keys are rotated by it, as in DINOv3, and nothing is learned."""
    encoder_projection: Width = 128
    """Width to which a flattened patch is projected."""
    blocks: Depth = 4
    """Number of Transformer blocks."""
    heads: Depth = 8
    """Attention heads of each block."""
    head_width: Width = 16
    """Width of the query, key and value of one head; with `position` = `rotary` a multiple of 4."""
    mlp_units: Annotated[tuple[Width, ...], Field(min_length=1, max_length=64)] = (512, 1024)
    """Widths of the MLP of each Transformer block; tokens leave a block as wide as the last of them."""
    depths: Depth = 1
    """Number of depths, evenly spread over the encoder's blocks, whose tokens the decoder gets, side by side; 1: only those
    of the last block. Published encoders know in the middle what they have forgotten at the end."""
    features_per_patch: Width = 32
    """Width of the encoder's features of each patch, the decoder's input."""
    decoder_projection: Width = 128
    """Width to which the original patch is projected, where the decoder reintroduces it."""
    decoder_mlp_units: Annotated[tuple[Width, ...], Field(max_length=64)] = (512, 512, 512)
    """Widths of the MLP that turns features and patch into pixels."""
    activation: Literal["gelu", "gelu_tanh", "quick_gelu", "swiglu"] = "gelu"
    """Between the encoder's layers of an MLP: `gelu`, its approximations `gelu_tanh` (SigLIP) and `quick_gelu` (CLIP), or
    `swiglu`, a gate as in the largest of DINOv2, for which each layer but the last is twice as wide."""
    skip_projection: bool = False
    """Whether the skip path around the MLP is always a linear layer, as in the paper, or only where the width changes."""
    normalization: Literal["layer", "none"] = "layer"
    """`layer`: LayerNorm before attention, MLPs and features; `none`: nowhere."""
    norm_epsilon: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    """What LayerNorm adds to the variance; take that of published weights (timm 1e-6, Hugging Face's ViT 1e-12)."""
    pre_norm: bool = False
    """Whether tokens are normalized before the first block, too (CLIP)."""
    class_token: bool = False
    """Whether the encoder has a learned token without a patch, as the original ViT."""
    registers: Annotated[int, Field(ge=0, le=512)] = 0
    """Number of further learned tokens without a patch, where the encoder can keep what concerns the whole image (DINOv2: 4)."""
    dropout: Share = 0.0
    """Share of activations dropped in training, 0–1."""
    stochastic_depth: Share = 0.0
    """Drop path: share of images that skip the last block in training, 0–1; for earlier blocks it is proportionally less."""
    layer_scale: Annotated[float, Field(ge=0)] = 0.0
    """Initial value of the learned factor on residual branches (CaiT); 0: no such factor."""
    encoder: Literal["trained", "frozen"] | Depth = "trained"
    """What of the encoder learns, where training starts from other weights: all of it (`trained`); nothing (`frozen`), so that
    features are computed once; or a number: the last so many blocks and the last norm."""
    decoder: Literal["patch", "attention", "linear", "spiral", "overlap"] = "patch"
    """`patch`: the paper's, each patch independently; `attention`: ours, without seams; `linear`: one layer on the encoder's
    tokens, the yardstick; `spiral`: patch after patch. `overlap`: of old bundles alone."""
    fine_patch: Annotated[int, Field(ge=0, le=2**16)] = 0
    """Decoder `attention`: side of its finer patches, pixels, a divisor of `patch_size`; 0: `patch_size`."""
    fine_width: Annotated[int, Field(ge=1, le=2**15)] = 64
    """Decoder `attention`: width of the tokens of finer patches, a multiple of 32, the width of a head."""
    fine_blocks: Annotated[int, Field(ge=0, le=512)] = 0
    """Decoder `attention`: number of its blocks, at least 1."""
    spiral_blocks: Depth = 2
    """Decoder `spiral`: number of its blocks."""
    target: Literal["classes", "rgb"] = "classes"
    """What is predicted: `classes`, scores for each pixel; `rgb`, a color image, 0–1."""

    def __post_init__(self) -> None:
        fine = self.fine_patch or self.patch_size
        require(self.patch_size % fine == 0, "model.fine_patch must divide model.patch_size")
        require(self.depths <= self.blocks, "model.depths is at most model.blocks")
        if self.position == "rotary":
            width = f"model.head_width = {self.head_width} must be a multiple of 4 where model.position = rotary"
            require(self.head_width % 4 == 0, width)
        if isinstance(self.encoder, int):
            deep = f"model.encoder = {self.encoder}, but there are only model.blocks = {self.blocks}: choose trained"
            require(self.encoder <= self.blocks, deep)
        if self.decoder == "attention":
            require(self.fine_blocks > 0, "model.fine_blocks must be 1 or more where model.decoder = attention")
            width = f"model.fine_width = {self.fine_width} must be a multiple of 32, the width of a head"
            require(self.fine_width % 32 == 0, width)

    @property
    def token_width(self) -> int:
        """Width of the encoder's tokens, those of all `depths` side by side."""
        return self.depths * self.mlp_units[-1]
