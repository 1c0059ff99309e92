"""The recipe of a training job: frozen dataclasses, read from TOML, checked when they are made.

A *preset* is a recipe file that ships with the package (`vitseg/recipes/tiny.toml` …). A user's own file and
`--set a.b=c` are laid over it, in that order; what comes out is stored, resolved, beside every checkpoint.
"""

import dataclasses
import difflib
import hashlib
import json
import os
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from vitseg.errors import NotFoundError, UsageError

_WITHOUT_EFFECT = {
    "data": ("decode_threads",),
    "run": ("checkpoint_steps", "keep_checkpoints", "log_steps", "panel_epochs"),
}
"""What a job may change between a crash and its continuation: it is how the work is done, not what is computed."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The numbers of the network, named as in the paper's table of parameters (its Fig. 7)."""

    patch_size: int = 16
    """Side of the square patches, pixels."""
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
    dropout: float = 0.0
    """Share of activations dropped in training, 0–1."""
    target: str = "classes"
    """`classes`: scores a class and pixel; `rgb`: the colour image itself, 0–1."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for field_ in dataclasses.fields(self):
            if field_.type is int:
                _require(getattr(self, field_.name) >= 1, f"model.{field_.name} must be at least 1")
        _require(self.position in ("concat", "add"), "model.position is concat or add")
        _require(self.target in ("classes", "rgb"), "model.target is classes or rgb")
        _require(0 <= self.dropout < 1, "model.dropout is in 0 – 1")
        _require(bool(self.mlp_units) and min(self.mlp_units) >= 1, "model.mlp_units needs at least one width")
        _require(min(self.decoder_mlp_units, default=1) >= 1, "model.decoder_mlp_units must be positive")


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """How samples become batches."""

    batch_size: int = 16
    """Images an optimiser step, over all ranks together: the result does not depend on the number of ranks."""
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
    """AdamW and its schedule; learning rate and weight decay are the paper's."""

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
        _require(self.learning_rate > 0, "optimiser.learning_rate must be positive")
        _require(self.weight_decay >= 0, "optimiser.weight_decay must not be negative")
        _require(0 <= self.warmup_share < 1, "optimiser.warmup_share is in 0 – 1")
        _require(self.schedule in ("cosine", "constant"), "optimiser.schedule is cosine or constant")
        _require(self.clip_norm >= 0, "optimiser.clip_norm must not be negative")
        _require(self.accumulate >= 1, "optimiser.accumulate must be at least 1")


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

    def __post_init__(self) -> None:
        """Check ranges."""
        _require(0 <= self.seed < 2**32, "run.seed is in 0 – 2³²-1")
        for field_ in dataclasses.fields(self):
            if field_.name != "seed":
                _require(getattr(self, field_.name) >= 1, f"run.{field_.name} must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides what a training job computes, but for the data."""

    model: Architecture = field(default_factory=Architecture)
    data: DataRecipe = field(default_factory=DataRecipe)
    optimiser: OptimiserRecipe = field(default_factory=OptimiserRecipe)
    run: RunRecipe = field(default_factory=RunRecipe)

    def __post_init__(self) -> None:
        """Check what concerns more than one section."""
        _require(
            self.data.batch_size % self.optimiser.accumulate == 0,
            "data.batch_size must be a multiple of optimiser.accumulate",
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


def presets() -> list[str]:
    """Return the names of the recipes that ship with the package."""
    folder = resources.files("vitseg") / "recipes"
    return sorted(path.name.removesuffix(".toml") for path in folder.iterdir() if path.name.endswith(".toml"))


def load_recipe(preset: str = "tiny", file: str | Path | None = None, overrides: Sequence[str] = ()) -> Recipe:
    """Lay a user's TOML file and `a.b=c` overrides over a preset.

    Raises:
        UsageError: an unknown preset, key or value; the message names the nearest key that exists.
        NotFoundError: the file does not exist.
    """
    if preset not in presets():
        raise UsageError(f"preset {preset!r} does not exist: choose {', '.join(presets())}")
    values: dict[str, Any] = tomllib.loads((resources.files("vitseg") / "recipes" / f"{preset}.toml").read_text())
    if file is not None:
        _merge(values, _read_toml(Path(file)))
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals or name.count(".") != 1:
            raise UsageError(f"--set {override}: write SECTION.KEY=VALUE, as in run.epochs=20")
        section, key = name.strip().split(".")
        _merge(values, {section: {key: _literal(text.strip())}})
    return recipe_from(values)


def recipe_from(values: Mapping[str, Any]) -> Recipe:
    """Build a recipe from nested plain data.

    Raises:
        UsageError: an unknown key, or a value of the wrong type or range.
    """
    return _build(Recipe, values, "")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise NotFoundError(f"recipe {path} can't be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"recipe {path} is not TOML: {error}") from error


def _literal(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # a bare word is a string: --set model.target=rgb


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value


def _build(kind: Any, values: Any, where: str) -> Any:
    if not isinstance(values, Mapping):
        raise UsageError(f"recipe: {where.rstrip('.')} is a section, not a value")
    hints = typing.get_type_hints(kind)
    for key in values:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            hint = f"did you mean {where}{near[0]}?" if near else f"it knows {', '.join(sorted(hints))}"
            raise UsageError(f"recipe: unknown key {where}{key}: {hint}")
    built = {}
    for key, value in values.items():
        nested = dataclasses.is_dataclass(hints[key])
        built[key] = _build(hints[key], value, f"{where}{key}.") if nested else _convert(hints[key], value, where + key)
    return kind(**built)


def _convert(kind: Any, value: Any, name: str) -> Any:
    if isinstance(kind, types.GenericAlias) and isinstance(value, list | tuple):
        return tuple(_convert(int, item, name) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        wanted = getattr(kind, "__name__", str(kind))
        raise UsageError(f"recipe: {name} = {value!r} is not of type {wanted}")
    return value


def home() -> Path:
    """Return the folder for state on this machine: `VITSEG_HOME`, by default `.vitseg/` here."""
    return Path(os.environ.get("VITSEG_HOME") or ".vitseg").absolute()
