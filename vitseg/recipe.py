"""What a training job is told: frozen dataclasses, checked when they are made. `config` reads them from TOML."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from vitseg.architecture import Architecture, require
from vitseg.old_keys import OLD_NAMES, rename_keys

_WITHOUT_EFFECT = {
    "data": ("decode_threads",),
    "run": (
        "checkpoint_steps",
        "keep_checkpoints",
        "log_steps",
        "panel_epochs",
        "hang_minutes",
        "compile",
    ),
}
"""What a job may change between a crash and its continuation: it is how the work is done, not what is computed."""


PRECISIONS = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """How samples become batches."""

    batch_size: int = 16
    """Images an optimizer step, over all ranks together: the result does not depend on the number of ranks, but for what
    dropout and stochastic depth leave out, and for rounding, of which Muon, in bfloat16, makes more than AdamW."""
    shuffle_shards: int = 16
    """Shards that are open at once; samples are shuffled among them."""
    flip: bool = True
    """Mirror half of the training images, with their labels."""
    decode_threads: int = 2
    """Threads per rank that read and decode ahead. Two of them, 1,900 samples of 256×256 a second, are enough for an H100; eight
    read 6,000 a second where nothing else goes on, but take the interpreter from the thread that trains."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("batch_size", "shuffle_shards", "decode_threads"):
            require(getattr(self, name) >= 1, f"data.{name} must be at least 1")


@dataclass(frozen=True, kw_only=True)
class OptimizerRecipe:
    """The optimizer and its schedule; AdamW, learning rate and weight decay are the paper's."""

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
    """Forward and backward passes an optimizer step: a batch in this many parts, for small memories."""
    average: float = 0.0
    """Decay of the exponential moving average of the weights, which is then what is validated and registered; 0: none.
    In the first steps it decays faster, so that what they were is soon forgotten."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.name in ("adamw", "muon"), "optimizer.name is adamw or muon")
        require(self.learning_rate > 0, "optimizer.learning_rate must be positive")
        require(self.weight_decay >= 0, "optimizer.weight_decay must not be negative")
        require(0 <= self.warmup_share < 1, "optimizer.warmup_share is at least 0 and less than 1")
        require(self.schedule in ("cosine", "constant"), "optimizer.schedule is cosine or constant")
        require(self.clip_norm >= 0, "optimizer.clip_norm must not be negative")
        require(self.accumulate >= 1, "optimizer.accumulate must be at least 1")
        require(0 <= self.average < 1, "optimizer.average is at least 0 and less than 1")


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
        require(self.rgb in ("absolute", "squared"), "loss.rgb is absolute or squared")
        require(self.class_weights in ("none", "balanced"), "loss.class_weights is none or balanced")
        require(0 <= self.label_smoothing < 1, "loss.label_smoothing is at least 0 and less than 1")
        require(self.dice >= 0, "loss.dice must not be negative")


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
        require(len(self.scale) == 2, "augment.scale is [smallest, largest]")
        require(0.25 <= self.scale[0] <= self.scale[-1] <= 8, "augment.scale must rise and lie in 0.25 – 8")
        require(0 <= self.color <= 1, "augment.color is in 0 – 1")
        require(0 <= self.rare <= 1, "augment.rare is in 0 – 1")


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
        require(0 < self.ratio < 1, "masked.ratio is between 0 and 1")
        require(self.decoder_blocks >= 1, "masked.decoder_blocks must be at least 1")
        require(
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
    """Optimizer steps between checkpoints."""
    keep_checkpoints: int = 2
    """Checkpoints that stay in the bucket."""
    log_steps: int = 5
    """Optimizer steps between logged training metrics."""
    evaluate_epochs: int = 1
    """Epochs between validations."""
    panel_epochs: int = 5
    """Epochs between panels (photo | truth | prediction) of the same validation images."""
    hang_minutes: float = 10.0
    """Minutes without a step, or a validated batch, after which a rank counts as hung and its job is ended."""
    patience: int = 0
    """Validations without a better score (mIoU; PSNR of image pairs) after which training ends early; 0: never."""
    select: str = "best"
    """Which weights become the model: `best`, those of the epoch with the best score, or `last`."""
    precision: str = "auto"
    """Of forward passes: `float32`, `bfloat16` or `float16` (autocast, its gradients scaled); `auto`: what the GPU has of
    bfloat16 and float16, in this order; processors compute in float32."""
    compile: bool = False
    """Let `torch.compile` fuse the model's kernels: slow to start, and needs a C++ compiler, on GPUs Triton."""
    deterministic: bool = False
    """On GPUs, too, sums are added up in the same order each time: same machine, same seed, same weights; slower."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(0 <= self.seed < 2**32, "run.seed is in 0 – 2³²-1")
        for field_ in dataclasses.fields(self):
            if field_.type is int and field_.name not in ("seed", "patience"):
                require(getattr(self, field_.name) >= 1, f"run.{field_.name} must be at least 1")
        require(self.hang_minutes > 0, "run.hang_minutes must be positive")
        require(self.patience >= 0, "run.patience must not be negative")
        require(self.select in ("best", "last"), "run.select is best or last")
        require(self.precision in PRECISIONS, f"run.precision is {' or '.join(PRECISIONS)}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides what a training job computes, but for the data."""

    model: Architecture = field(default_factory=Architecture)
    data: DataRecipe = field(default_factory=DataRecipe)
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    loss: LossRecipe = field(default_factory=LossRecipe)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    masked: MaskedRecipe = field(default_factory=MaskedRecipe)
    run: RunRecipe = field(default_factory=RunRecipe)

    def __post_init__(self) -> None:
        """Check what concerns more than one section."""
        require(
            self.data.batch_size % self.optimizer.accumulate == 0,
            "data.batch_size must be a multiple of optimizer.accumulate",
        )
        plain = self.loss.class_weights == "none" and not self.loss.label_smoothing and not self.loss.dice
        require(
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
        if not self.run.deterministic:  # asked for, it is a job of its own: another one's weights would be no answer
            del values["run"]["deterministic"]
        values = rename_keys(values, OLD_NAMES)  # jobs of earlier versions are found by it
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
