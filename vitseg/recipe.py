"""What a training job is told: frozen dataclasses, checked when they are made. `config` reads them from TOML."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from vitseg.errors import UsageError

_WITHOUT_EFFECT = {
    "data": ("decode_threads",),
    "run": ("checkpoint_steps", "keep_checkpoints", "log_steps", "panel_epochs", "hang_minutes"),
}
"""What a job may change between a crash and its continuation: it is how the work is done, not what is computed."""


_CHOICES = {
    "pixels": ("fixed", "image"),
    "position": ("concat", "add"),
    "normalisation": ("layer", "none"),
    "decoder": ("patch", "overlap", "spiral"),
    "target": ("classes", "rgb"),
}


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The numbers of the network, named as in the paper's table of parameters (its Fig. 7)."""

    patch_size: int = 16
    """Side of the square patches, pixels."""
    pixels: str = "fixed"
    """How pixels are normalised: `fixed`, by numbers equal for all; `image`, by each photograph's own mean and deviation,
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
    normalisation: str = "layer"
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
    """Decoder `overlap`: blocks of attention among neighbours on the finer grid."""
    fine_heads: int = 2
    """Decoder `overlap`: heads of these blocks."""
    fine_reach: int = 2
    """Decoder `overlap`: how many steps away on the finer grid a neighbour may be."""
    narrow_width: int = 64
    """Decoder `overlap`: width to which finer tokens are narrowed before each writes its square of pixels."""
    spiral_blocks: int = 2
    """Decoder `spiral`: number of its blocks."""
    target: str = "classes"
    """`classes`: scores a class and pixel; `rgb`: the colour image itself, 0–1."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for field_ in dataclasses.fields(self):
            if field_.type is int:
                least = 0 if field_.name in ("fine_patch", "fine_blocks") else 1
                _require(getattr(self, field_.name) >= least, f"model.{field_.name} must be at least {least}")
        for name, choices in _CHOICES.items():
            _require(getattr(self, name) in choices, f"model.{name} is {' or '.join(choices)}")
        for name in ("dropout", "stochastic_depth"):
            _require(0 <= getattr(self, name) < 1, f"model.{name} is in 0 – 1")
        _require(0 < self.norm_epsilon < 1, "model.norm_epsilon is in 0 – 1")
        _require(self.layer_scale >= 0, "model.layer_scale must not be negative")
        _require(bool(self.mlp_units) and min(self.mlp_units) >= 1, "model.mlp_units needs at least one width")
        _require(min(self.decoder_mlp_units, default=1) >= 1, "model.decoder_mlp_units must be positive")
        fine = self.fine_patch or self.patch_size
        _require(self.patch_size % fine == 0, "model.fine_patch must divide model.patch_size")
        if (
            self.decoder == "overlap"
        ):  # what is seen of the photograph reaches half a finer patch further, in whole pixels
            _require(fine % 2 == 0, f"model.fine_patch = {fine} must be even: set one that is, and divides patch_size")
        _require(self.fine_width % self.fine_heads == 0, "model.fine_width must be a multiple of model.fine_heads")


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """How samples become batches."""

    batch_size: int = 16
    """Images an optimiser step, over all ranks together: the result does not depend on the number of ranks, but for what
    dropout and stochastic depth leave out, and for rounding, of which Muon, in bfloat16, makes more than AdamW."""
    shuffle_shards: int = 16
    """Shards that are open at once; samples are shuffled among them."""
    flip: bool = True
    """Mirror half of the training images, with their labels."""
    decode_threads: int = 2
    """Threads a rank that read and decode ahead."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("batch_size", "shuffle_shards", "decode_threads"):
            _require(getattr(self, name) >= 1, f"data.{name} must be at least 1")


@dataclass(frozen=True, kw_only=True)
class OptimiserRecipe:
    """The optimiser and its schedule; AdamW, learning rate and weight decay are the paper's."""

    name: str = "adamw"
    """`adamw`, or `muon`: matrices by Muon, the rest by AdamW; it learns much more from the same images."""
    learning_rate: float = 0.0015
    """Peak learning rate."""
    weight_decay: float = 0.0001
    """Decay of weight matrices; norms, biases and embeddings have none."""
    warmup_share: float = 0.05
    """Share of all steps over which the learning rate rises from 0."""
    schedule: str = "cosine"
    """`cosine` falls to 0 at the last step; `constant` stays after warm-up."""
    clip_norm: float = 1.0
    """Largest norm of the whole gradient; 0 switches clipping off."""
    accumulate: int = 1
    """Forward and backward passes an optimiser step: a batch in this many parts, for small memories."""

    def __post_init__(self) -> None:
        """Check ranges."""
        _require(self.name in ("adamw", "muon"), "optimiser.name is adamw or muon")
        _require(self.learning_rate > 0, "optimiser.learning_rate must be positive")
        _require(self.weight_decay >= 0, "optimiser.weight_decay must not be negative")
        _require(0 <= self.warmup_share < 1, "optimiser.warmup_share is in 0 – 1")
        _require(self.schedule in ("cosine", "constant"), "optimiser.schedule is cosine or constant")
        _require(self.clip_norm >= 0, "optimiser.clip_norm must not be negative")
        _require(self.accumulate >= 1, "optimiser.accumulate must be at least 1")


@dataclass(frozen=True, kw_only=True)
class LossRecipe:
    """What training makes small."""

    rgb: str = "absolute"
    """Target `rgb`: mean `absolute` error, the paper's choice, or mean `squared` error."""
    class_weights: str = "none"
    """Target `classes`: `none`, or `balanced`: a class counts by one over the root of its share of pixels."""
    label_smoothing: float = 0.0
    """Target `classes`: share of the truth that is spread over all classes, 0–1."""
    dice: float = 0.0
    """Target `classes`: weight of the Dice loss that is added to cross-entropy."""

    def __post_init__(self) -> None:
        """Check ranges."""
        _require(self.rgb in ("absolute", "squared"), "loss.rgb is absolute or squared")
        _require(self.class_weights in ("none", "balanced"), "loss.class_weights is none or balanced")
        _require(0 <= self.label_smoothing < 1, "loss.label_smoothing is in 0 – 1")
        _require(self.dice >= 0, "loss.dice must not be negative")


@dataclass(frozen=True, kw_only=True)
class AugmentRecipe:
    """Random changes of photo and label together, in training only."""

    scale: tuple[float, ...] = (1.0, 1.0)
    """Smallest and largest factor by which an image is enlarged before its size is cut out of it again; below 1 it
    becomes smaller than its frame, which pairs of images and pretraining leave out."""
    color: float = 0.0
    """Largest relative change of brightness, contrast and saturation, 0–1; the label keeps its ids. Of brightness and
    contrast little is left for a model with `pixels` = `image`, which does not see them anyway."""
    rare: float = 0.0
    """Share of crops, 0–1, that are placed around a pixel of a rare class."""

    def __post_init__(self) -> None:
        """Check ranges."""
        _require(len(self.scale) == 2, "augment.scale is [smallest, largest]")
        _require(0.25 <= self.scale[0] <= self.scale[-1] <= 8, "augment.scale must rise and lie in 0.25 – 8")
        _require(0 <= self.color <= 1, "augment.color is in 0 – 1")
        _require(0 <= self.rare <= 1, "augment.rare is in 0 – 1")


@dataclass(frozen=True, kw_only=True)
class MaskedRecipe:
    """`vitseg pretrain`: the masked autoencoder around the encoder (https://arxiv.org/abs/2111.06377)."""

    ratio: float = 0.75
    """Share of the patches that are hidden, 0–1."""
    decoder_blocks: int = 1
    """Transformer blocks of its decoder, which is thrown away afterwards."""
    decoder_width: int = 128
    """Width of their tokens, a multiple of 32: a head is that wide."""

    def __post_init__(self) -> None:
        """Check ranges."""
        _require(0 < self.ratio < 1, "masked.ratio is in 0 – 1")
        _require(self.decoder_blocks >= 1, "masked.decoder_blocks must be at least 1")
        _require(
            self.decoder_width >= 32 and self.decoder_width % 32 == 0, "masked.decoder_width must be a multiple of 32"
        )


@dataclass(frozen=True, kw_only=True)
class RunRecipe:
    """How long to train, and how often to look and to save."""

    epochs: int = 100
    """Passes over the training split."""
    seed: int = 0
    """Everything random is a function of it."""
    checkpoint_steps: int = 50
    """Optimiser steps between checkpoints."""
    keep_checkpoints: int = 2
    """Checkpoints that stay in the bucket."""
    log_steps: int = 5
    """Optimiser steps between logged training metrics."""
    evaluate_epochs: int = 1
    """Epochs between validations."""
    panel_epochs: int = 5
    """Epochs between panels (photo | truth | prediction) of the same validation images."""
    hang_minutes: float = 10.0
    """Minutes without a step, or a validated batch, after which a rank counts as hung and its job is ended."""

    def __post_init__(self) -> None:
        """Check ranges."""
        _require(0 <= self.seed < 2**32, "run.seed is in 0 – 2³²-1")
        for field_ in dataclasses.fields(self):
            if field_.name not in ("seed", "hang_minutes"):
                _require(getattr(self, field_.name) >= 1, f"run.{field_.name} must be at least 1")
        _require(self.hang_minutes > 0, "run.hang_minutes must be positive")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides what a training job computes, but for the data."""

    model: Architecture = field(default_factory=Architecture)
    data: DataRecipe = field(default_factory=DataRecipe)
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    loss: LossRecipe = field(default_factory=LossRecipe)
    optimiser: OptimiserRecipe = field(default_factory=OptimiserRecipe)
    masked: MaskedRecipe = field(default_factory=MaskedRecipe)
    run: RunRecipe = field(default_factory=RunRecipe)

    def __post_init__(self) -> None:
        """Check what concerns more than one section."""
        _require(
            self.data.batch_size % self.optimiser.accumulate == 0,
            "data.batch_size must be a multiple of optimiser.accumulate",
        )
        plain = self.loss.class_weights == "none" and not self.loss.label_smoothing and not self.loss.dice
        _require(
            plain or self.model.target == "classes",
            "loss.class_weights, loss.label_smoothing and loss.dice are for model.target = classes, not rgb",
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain data that `recipe_from` reads back."""
        return dataclasses.asdict(self)

    def digest(self) -> str:
        """Return 12 hex digits that change with any value that changes the trained weights."""
        values = self.to_json()
        for section, keys in _WITHOUT_EFFECT.items():
            for key in keys:
                del values[section][key]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
