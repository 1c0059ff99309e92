"""What a training job computes: frozen dataclasses, checked when they are made. `config` reads them from TOML."""

import dataclasses
import hashlib
import json
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from vitseg.architecture import STRICT, Architecture, Count, Share, require
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


Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Zoom = Annotated[float, Field(ge=0.25, le=8)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataRecipe:
    """How samples become batches."""

    batch_size: Count = 16
    """Images an optimizer step, over all ranks together: the result does not depend on the number of ranks, but for what
    dropout and stochastic depth leave out, and for rounding, of which Muon, in bfloat16, makes more than AdamW."""
    shuffle_shards: Count = 16
    """Shards that are open at once; samples are shuffled among them."""
    flip: bool = True
    """Mirror half of the training images, with their labels."""
    decode_threads: Count = 2
    """Threads per rank that read and decode ahead. Two of them, 1,900 samples of 256×256 a second, are enough for an H100; eight
    read 6,000 a second where nothing else goes on, but take the interpreter from the thread that trains."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OptimizerRecipe:
    """The optimizer and its schedule; AdamW, learning rate and weight decay are the paper's."""

    name: Literal["adamw", "muon"] = "adamw"
    """`adamw`, or `muon`: matrices by Muon, the rest by AdamW; it learns much more from the same images."""
    learning_rate: Positive = 0.0015
    """Peak learning rate."""
    weight_decay: NotNegative = 0.0001
    """Decay of weight matrices; norms, biases and embeddings have none."""
    warmup_share: Share = 0.05
    """Share of all steps over which the learning rate rises from 0."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """`cosine` falls to 0 at the last step; `constant` stays after warm-up."""
    clip_norm: NotNegative = 1.0
    """Largest norm of the whole gradient; 0 switches clipping off."""
    accumulate: Count = 1
    """Forward and backward passes an optimizer step: a batch in this many parts, for small memories."""
    average: Share = 0.0
    """Decay of the exponential moving average of the weights, which is then what is validated and registered; 0: none.
    In the first steps it decays faster, so that what they were is soon forgotten."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LossRecipe:
    """What training makes small."""

    rgb: Literal["absolute", "squared"] = "absolute"
    """Target `rgb`: mean `absolute` error, the paper's choice, or mean `squared` error."""
    class_weights: Literal["none", "balanced"] = "none"
    """Target `classes`: `none`, or `balanced`: a class counts by one over the root of its share of pixels."""
    label_smoothing: Share = 0.0
    """Target `classes`: share of the truth that is spread over all classes, 0–1."""
    dice: NotNegative = 0.0
    """Target `classes`: weight of the Dice loss that is added to cross-entropy."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AugmentRecipe:
    """Random changes of photo and label together, in training only."""

    scale: tuple[Zoom, Zoom] = (1.0, 1.0)
    """Smallest and largest factor by which an image is enlarged before its size is cut out of it again; below 1 it
    becomes smaller than its frame, which pairs of images and pretraining leave out."""
    color: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Largest relative change of brightness, contrast and saturation, 0–1; the label keeps its ids. Of brightness and
    contrast little is left for a model with `pixels` = `image`, which does not see them anyway."""
    rare: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of crops, 0–1, that are placed around a pixel of a rare class."""

    def __post_init__(self) -> None:
        """Check what two values have to do with each other."""
        require(self.scale[0] <= self.scale[1], "augment.scale is [smallest, largest]")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MaskedRecipe:
    """`vitseg pretrain`: the masked autoencoder around the encoder (https://arxiv.org/abs/2111.06377)."""

    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.75
    """Share of the patches that are hidden, 0–1."""
    decoder_blocks: Count = 1
    """Transformer blocks of its decoder, which is thrown away afterwards."""
    decoder_width: Annotated[int, Field(ge=32, multiple_of=32)] = 128
    """Width of their tokens, a multiple of 32: a head is that wide."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RunRecipe:
    """How long to train, and how often to look and to save."""

    epochs: Count = 100
    """Passes over the training split."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Everything random is a function of it."""
    checkpoint_steps: Count = 50
    """Optimizer steps between checkpoints."""
    keep_checkpoints: Count = 2
    """Checkpoints that stay in the bucket."""
    log_steps: Count = 5
    """Optimizer steps between logged training metrics."""
    evaluate_epochs: Count = 1
    """Epochs between validations."""
    panel_epochs: Count = 5
    """Epochs between panels (photo | truth | prediction) of the same validation images."""
    hang_minutes: Positive = 10.0
    """Minutes without a step, or a validated batch, after which a rank counts as hung and its job is ended."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Validations without a better score (mIoU; PSNR of image pairs) after which training ends early; 0: never."""
    select: Literal["best", "last"] = "best"
    """Which weights become the model: `best`, those of the epoch with the best score, or `last`."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of forward passes: `float32`, `bfloat16` or `float16` (autocast, its gradients scaled); `auto`: what the GPU has of
    bfloat16 and float16, in this order; processors compute in float32."""
    compile: bool = False
    """Let `torch.compile` fuse the model's kernels: slow to start, and needs a C++ compiler, on GPUs Triton."""
    deterministic: bool = False
    """On GPUs, too, sums are added up in the same order each time: same machine, same seed, same weights; slower."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
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
