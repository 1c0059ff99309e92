"""What a network is told: its numbers, checked when they are set. `recipe` holds the rest of what a job is told."""

import dataclasses
from dataclasses import dataclass

from vitseg.errors import UsageError

_CHOICES = {
    "pixels": ("fixed", "image"),
    "position": ("concat", "add"),
    "normalization": ("layer", "none"),
    "decoder": ("patch", "overlap", "spiral"),
    "target": ("classes", "rgb"),
}


def require(condition: bool, message: str) -> None:
    """Refuse what a user has set.

    Raises:
        UsageError: the condition does not hold.
    """
    if not condition:
        raise UsageError(message)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The numbers of the network, named as in the paper's table of parameters (its Fig. 7)."""

    patch_size: int = 16
    """Side of the square patches, pixels."""
    pixels: str = "fixed"
    """How pixels are normalized: `fixed`, by numbers equal for all; `image`, by each photograph's own mean and deviation,
    so that how bright a camera or a day was does not matter."""
    spatial_embedding: int = 8
    """Width of the learned embedding of a patch's position, concatenated to its projection."""
    position: str = "concat"
    """How the spatial embedding joins: `concat` as in the paper, `add` as in the original ViT."""
    encoder_projection: int = 128
    """Width to which a flattened patch is projected."""
    blocks: int = 4
    """Number of Transformer blocks."""
    heads: int = 8
    """Attention heads a block."""
    head_width: int = 16
    """Width of the query, key and value of one head."""
    mlp_units: tuple[int, ...] = (512, 1024)
    """Widths of the MLP of each Transformer block; tokens leave a block as wide as the last of them."""
    features_per_patch: int = 32
    """Width of what the encoder says about each patch."""
    decoder_projection: int = 128
    """Width to which the original patch is projected where it is reintroduced."""
    decoder_mlp_units: tuple[int, ...] = (512, 512, 512)
    """Widths of the MLP that turns features and patch into pixels."""
    skip_projection: bool = False
    """Whether the skip path around each block's MLP is a linear layer even where it changes no width: the paper's."""
    normalization: str = "layer"
    """`layer`: LayerNorm before attention, MLPs and features; `none`: nowhere."""
    norm_epsilon: float = 1e-6
    """What LayerNorm adds to the variance; published weights bring theirs (timm 1e-6, Hugging Face's ViT 1e-12)."""
    class_token: bool = False
    """Whether a learned token without a patch runs along, as in the original ViT."""
    dropout: float = 0.0
    """Share of activations dropped in training, 0–1."""
    stochastic_depth: float = 0.0
    """Share of images for which the last block is left out in training, 0–1; earlier blocks less, in proportion."""
    layer_scale: float = 0.0
    """Start of the learned factor on what attention and MLP add (CaiT); 0: no such factor."""
    decoder: str = "patch"
    """`patch`: the paper's, each patch by itself; `overlap`: ours, without seams; `spiral`: patch after patch."""
    fine_patch: int = 0
    """Decoder `overlap`: side of the finer patches it works on, pixels, a divisor of `patch_size`; 0: `patch_size`."""
    fine_width: int = 64
    """Decoder `overlap`: width of the finer tokens."""
    fine_blocks: int = 0
    """Decoder `overlap`: blocks of attention among neighbors on the finer grid."""
    fine_heads: int = 2
    """Decoder `overlap`: heads of these blocks."""
    fine_radius: int = 2
    """Decoder `overlap`: how many steps away on the finer grid a neighbor may be."""
    narrow_width: int = 64
    """Decoder `overlap`: width to which finer tokens are narrowed before each writes its square of pixels."""
    spiral_blocks: int = 2
    """Decoder `spiral`: number of its blocks."""
    target: str = "classes"
    """`classes`: scores a class and pixel; `rgb`: the color image itself, 0–1."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for field_ in dataclasses.fields(self):
            if field_.type is int:
                least = 0 if field_.name in ("fine_patch", "fine_blocks") else 1
                require(getattr(self, field_.name) >= least, f"model.{field_.name} must be at least {least}")
        for name, choices in _CHOICES.items():
            require(getattr(self, name) in choices, f"model.{name} is {' or '.join(choices)}")
        for name in ("dropout", "stochastic_depth"):
            require(0 <= getattr(self, name) < 1, f"model.{name} is in 0 – 1")
        require(0 < self.norm_epsilon < 1, "model.norm_epsilon is in 0 – 1")
        require(self.layer_scale >= 0, "model.layer_scale must not be negative")
        require(bool(self.mlp_units) and min(self.mlp_units) >= 1, "model.mlp_units needs at least one width")
        require(min(self.decoder_mlp_units, default=1) >= 1, "model.decoder_mlp_units must be positive")
        fine = self.fine_patch or self.patch_size
        require(self.patch_size % fine == 0, "model.fine_patch must divide model.patch_size")
        if (
            self.decoder == "overlap"
        ):  # what is seen of the photograph reaches half a finer patch further, in whole pixels
            require(fine % 2 == 0, f"model.fine_patch = {fine} must be even: set one that is, and divides patch_size")
        require(self.fine_width % self.fine_heads == 0, "model.fine_width must be a multiple of model.fine_heads")
