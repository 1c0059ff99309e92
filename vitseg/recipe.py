"""What a training job computes: frozen dataclasses, checked when they are created. `config` reads them from TOML."""

import dataclasses
import hashlib
import json
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from vitseg.architecture import STRICT, Architecture, Count, Share, require
from vitseg.old_keys import LATER_KEYS, LATER_OPTIMIZER_KEYS, OLD_NAMES, OVERLAP_KEYS, rename_keys

_WITHOUT_EFFECT = {
    "data": ("decode_threads",),
    "run": (
        "checkpoint_steps", "keep_checkpoints", "log_steps", "panel_epochs", "hang_minutes", "compile", "cuda_graph",
    ),
}  # fmt: skip
"""Keys that change how the work is done, not what is computed: a job may continue with other values of them."""

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Zoom = Annotated[float, Field(ge=0.25, le=8)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataRecipe:
    """How samples become batches."""

    batch_size: Count = 16
    """Images of an optimizer step, over all ranks together. So the result does not depend on the number of ranks, except for
    dropout, drop path and rounding (of which Muon does more than AdamW). `auto`: what fits and fills the
    device, measured when a job is first started (see `vitseg.training.batch_size`)."""
    shuffle_shards: Count = 16
    """Shards that are open at once; samples are shuffled across them."""
    flip: bool = True
    """Mirror half of the training images, with their labels."""
    decode_threads: Count = 2
    """Threads per rank that read and decode ahead. Two decode 1,900 samples of 256×256 a second, enough for an H100. Eight
    decode 6,000 a second on an idle machine, but take the interpreter lock from the thread that trains."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OptimizerRecipe:
    """The optimizer and its schedule; AdamW, its learning rate and weight decay are the paper's."""

    name: Literal["adamw", "muon"] = "adamw"
    """`adamw`; or `muon` for matrices with AdamW for the rest, which learns much more from the same images."""
    learning_rate: Positive = 0.0015
    """Peak learning rate. With `data.batch_size` = `auto` the preset's is scaled by the square root of the batch ÷ the
    preset's batch; one of yours is kept."""
    encoder_rate: NotNegative = 0.0
    """Peak learning rate of an encoder that knows something already, at its end; 0: that of everything. `learning_rate` is
    then that of the decoder alone."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """With `encoder_rate`: each block of the encoder learns at this times the rate of the block after it, 0–1."""
    weight_decay: NotNegative = 0.0001
    """Decay of weight matrices, not of norms, biases and embeddings."""
    warmup_share: Share = 0.05
    """Share of all steps over which the learning rate rises from 0."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """After warm-up: `cosine` falls to 0 at the last step, `constant` stays."""
    clip_norm: NotNegative = 1.0
    """Largest norm of the gradient of all weights; 0: no clipping."""
    accumulate: Count = 1
    """Parts in which a batch is computed, one forward and backward pass each: more parts need less memory."""
    average: Share = 0.0
    """Decay of the exponential moving average (EMA) of the weights, which is then validated and registered; 0: none. In the
    first steps the decay is faster."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LossRecipe:
    """What training minimizes."""

    rgb: Literal["absolute", "squared"] = "absolute"
    """Target `rgb`: mean `absolute` error, as in the paper, or mean `squared` error."""
    class_weights: Literal["none", "balanced"] = "none"
    """Target `classes`: `none`; or `balanced`, one over the square root of a class's share of pixels."""
    label_smoothing: Share = 0.0
    """Target `classes`: share of the target probability that is spread over all classes, 0–1."""
    dice: NotNegative = 0.0
    """Target `classes`: weight of the Dice loss that is added to cross-entropy."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AugmentRecipe:
    """Random augmentation of photo and label together, in training only."""

    scale: tuple[Zoom, Zoom] = (1.0, 1.0)
    """Smallest and largest factor by which an image is scaled before a crop of its size is taken. Below 1 it does not fill
    the crop; image pairs and pretraining skip such factors."""
    color: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Largest relative change of brightness, contrast and saturation, 0–1. With `model.pixels` = `image`, normalization
    removes most of the first two."""
    rare: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of crops that are placed around a pixel of a rare class, 0–1."""

    def __post_init__(self) -> None:
        require(self.scale[0] <= self.scale[1], "augment.scale is [smallest, largest]")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MaskedRecipe:
    """`vitseg pretrain`: the masked autoencoder around the encoder (https://arxiv.org/abs/2111.06377)."""

    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.75
    """Share of the patches that are hidden, 0–1."""
    decoder_blocks: Count = 1
    """Transformer blocks of its decoder, which is discarded after training."""
    decoder_width: Annotated[int, Field(ge=32, multiple_of=32)] = 128
    """Width of the decoder's tokens, a multiple of 32, the width of a head."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RunRecipe:
    """How long to train, and how often to evaluate, log and save."""

    epochs: Count = 100
    """Passes over the training split."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of all random numbers."""
    checkpoint_steps: Count = 50
    """Optimizer steps between checkpoints."""
    keep_checkpoints: Count = 2
    """Number of newest checkpoints that are kept."""
    log_steps: Count = 5
    """Optimizer steps between logged training metrics."""
    evaluate_epochs: Count = 1
    """Epochs between validations."""
    panel_epochs: Count = 5
    """Epochs between panels (photo | ground truth | prediction) of the same validation images."""
    hang_minutes: Positive = 10.0
    """Minutes without a step or a validated batch after which a rank counts as hung and the job is stopped."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Validations without a better score (mIoU, or PSNR of image pairs) after which training stops early; 0: never."""
    select: Literal["best", "last"] = "best"
    """Which weights are registered: `best`, those of the epoch with the best score, or `last`."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of forward passes: `float32`, or by autocast `bfloat16` or `float16` (with scaled gradients). `auto`: on GPUs bfloat16,
    or else float16; on processors bfloat16 if they have instructions for it and the model is faster with it, measured when
    the job begins, or else float32, as always with `deterministic`. A job goes on in what it began with."""
    compile: bool = False
    """Compile the model with `torch.compile`: slow to start; needs a C++ compiler, and Triton on GPUs."""
    cuda_graph: bool = True
    """On GPUs, launch the forward and backward pass of a step as one CUDA graph: the same kernels, launched together. It keeps
    its memory between steps."""
    deterministic: bool = False
    """On GPUs, too, compute bit for bit the same weights from the same seed on the same machine; slower."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Recipe:
    """Everything that decides what a training job computes, except the data."""

    model: Architecture = field(default_factory=Architecture)
    data: DataRecipe = field(default_factory=DataRecipe)
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    loss: LossRecipe = field(default_factory=LossRecipe)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    masked: MaskedRecipe = field(default_factory=MaskedRecipe)
    run: RunRecipe = field(default_factory=RunRecipe)

    def __post_init__(self) -> None:
        divides = self.data.batch_size % self.optimizer.accumulate == 0
        require(divides, "data.batch_size must be a multiple of optimizer.accumulate")
        old = self.model.decoder == "overlap"
        require(not old, "model.decoder = overlap is for old bundles alone, for it was a convolution: choose attention")
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
        if not self.run.deterministic:  # a deterministic job must not be answered with another one's weights
            del values["run"]["deterministic"]
        model = {key: value for key, value in values["model"].items() if LATER_KEYS.get(key) != value}
        values["model"] = {**OVERLAP_KEYS, **model}
        optimizer = values["optimizer"]
        values["optimizer"] = {key: value for key, value in optimizer.items() if LATER_OPTIMIZER_KEYS.get(key) != value}
        values = rename_keys(values, OLD_NAMES)  # so that jobs of earlier versions are found
        return _hash(values)


@dataclass(frozen=True, kw_only=True)
class RecipeRequest:
    """A recipe as a user asks for it. A job's own recipe has a number where this one says `auto`."""

    recipe: Recipe
    """With `auto_batch`, its batch is the preset's."""
    auto_batch: bool = False
    """Whether `data.batch_size` is `auto`."""
    own_keys: frozenset[str] = frozenset()
    """The keys that the user has set, not the preset, as `optimizer.learning_rate`."""

    @property
    def own_rate(self) -> bool:
        """Whether the learning rate is the user's."""
        return "optimizer.learning_rate" in self.own_keys

    def digest(self) -> str:
        """Return 12 hex digits that do not depend on what is chosen: the same request finds the same job."""
        digest = self.recipe.digest()
        return _hash({"recipe": digest, "batch_size": "auto", "own_rate": self.own_rate}) if self.auto_batch else digest


def _hash(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
