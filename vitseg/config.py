"""Reads recipes from TOML files and `--set` overrides into the checked dataclasses of `recipe`.

A *preset* is a recipe file that ships with the package (`vitseg/recipes/tiny.toml` …). A user's own file overrides it, and
`--set a.b=c` overrides both. A training that starts from weights has two layers more, between the preset and the user's:
`vitseg/recipes/transfer.toml`, and the shape of the encoder. The resolved recipe is stored beside every checkpoint.
"""

import copy
import dataclasses
import difflib
import json
import math
import tomllib
from collections.abc import Collection, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from vitseg.errors import NotFoundError, UsageError
from vitseg.old_keys import OVERLAP_KEYS, rename_keys
from vitseg.recipe import Recipe, RecipeRequest
from vitseg.recipes import PRESETS, TRANSFER

_SECTIONS = ("model", "data", "augment", "loss", "optimizer", "run")


def load_recipe(preset: str = "tiny", file: str | Path | None = None, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe of `load_request`: with the preset's batch, where the request leaves it to the device."""
    return load_request(preset, file, overrides).recipe


def load_request(preset: str = "tiny", file: str | Path | None = None, overrides: Sequence[str] = ()) -> RecipeRequest:
    """Return what `load_layers` reads as the request of a training from scratch.

    Raises:
        UsageError, NotFoundError: see `load_layers` and `RecipeLayers.request`.
    """
    return load_layers(preset, file, overrides).request()


def load_layers(preset: str = "tiny", file: str | Path | None = None, overrides: Sequence[str] = ()) -> "RecipeLayers":
    """Read a preset, and what is laid over it: a user's TOML file, then `a.b=c` options.

    Raises:
        UsageError: an unknown preset or key; the message suggests the nearest key.
        NotFoundError: the file can't be read.
    """
    if preset not in PRESETS:
        raise UsageError(f"preset {preset!r} does not exist: choose {', '.join(PRESETS)}")
    changes = dict[str, Any]()
    own = rename_keys(read_toml(Path(file)), warn=True) if file is not None else {}
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals or name.count(".") != 1:
            raise UsageError(f"--set {override}: write SECTION.KEY=VALUE, as in run.epochs=20")
        section, key = name.strip().split(".")
        _merge(changes, {section: {key: _literal(text.strip())}})
    _merge(own, rename_keys(changes, warn=True))
    _check_keys(Recipe, own, "recipe")
    return RecipeLayers(_shipped(preset), own)


@dataclasses.dataclass(frozen=True)
class RecipeLayers:
    """A recipe before it is put together: values by section and key."""

    preset: Mapping[str, Any]
    own: Mapping[str, Any]
    """The user's, which win."""

    def request(
        self,
        encoder: Mapping[str, Any] | None = None,
        free: Collection[str] = (),
        sections: Collection[str] = _SECTIONS,
    ) -> RecipeRequest:
        """Put the recipe together.

        Args:
            encoder: of a training that starts from weights: the keys of `model` that these decide. They take the place of
                the preset's, and so does `recipes/transfer.toml`.
            free: those of them that the user may set otherwise.
            sections: of `recipes/transfer.toml` that take the place of the preset's.

        Raises:
            UsageError: a value of the wrong type or range, or one that contradicts the encoder.
        """
        values: dict[str, Any] = copy.deepcopy(dict(self.preset))
        if encoder is not None:
            asked = {**values["model"], **self.own.get("model", {})}
            _merge(values, _transfer(sections, values["data"]["batch_size"], asked))
            _merge(values, {"model": encoder})
            shape = values["model"]  # a start without a decoder may have fewer blocks than depths are asked for
            shape["depths"] = min(shape.get("depths", 1), shape.get("blocks", 1))
        preset_batch, fine = values["data"]["batch_size"], values["model"].get("fine_patch", 0)
        _merge(values, self.own)
        auto = values["data"]["batch_size"] == "auto"
        if auto:
            parts = values.get("optimizer", {}).get("accumulate", 1)
            parts = parts if isinstance(parts, int) and parts > 0 else 1  # what it can't be is refused below
            values["data"]["batch_size"] = -(-preset_batch // parts) * parts
        own_keys = frozenset(f"{section}.{key}" for section, keys in self.own.items() for key in keys)
        if encoder is not None and "model.fine_patch" not in own_keys:
            values["model"]["fine_patch"] = _fitting_side(fine, values["model"]["patch_size"])
        recipe = recipe_from(values)
        for key in (encoder or {}).keys() - set(free):
            theirs, ours = (encoder or {})[key], getattr(recipe.model, key)
            if ours != theirs:
                raise UsageError(f"model.{key} is set to {ours}, but its encoder has {theirs}: leave model.{key} out")
        return RecipeRequest(recipe=recipe, auto_batch=auto, own_keys=own_keys)


def _transfer(sections: Collection[str], preset_batch: int, model: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `recipes/transfer.toml` lays over a preset with such batches, for a model with these keys."""
    shipped = _shipped(TRANSFER)
    found = {name: dict(keys) for name, keys in shipped.items() if name in sections}
    if "optimizer" in found and "data" not in found:  # the rates are those of its own batches
        factor = math.sqrt(preset_batch / shipped["data"]["batch_size"])
        found["optimizer"] |= {
            key: float(f"{found['optimizer'][key] * factor:.3g}") for key in ("learning_rate", "encoder_rate")
        }
    if model.get("encoder") == "frozen":  # its features are kept, which augmentation would forbid
        found["augment"] = {"scale": [1.0, 1.0], "color": 0.0}
    if model.get("target") == "rgb":  # colors have no Dice loss
        found.pop("loss", None)
    return found


def _shipped(name: str) -> dict[str, Any]:
    return tomllib.loads((resources.files("vitseg") / "recipes" / f"{name}.toml").read_text())


def _fitting_side(side: int, patch_size: Any) -> int:
    """Return the divisor of a patch's side that is nearest to the side of a finer patch, by ratio; 0 stays."""
    if not side or not isinstance(patch_size, int) or patch_size < 1:
        return side
    divisors = (divisor for divisor in range(1, patch_size + 1) if patch_size % divisor == 0)
    return min(divisors, key=lambda divisor: abs(math.log(divisor / side)))


def recipe_from(values: Mapping[str, Any]) -> Recipe:
    """Return the recipe that `Recipe.to_json`, of this or an earlier version, wrote.

    Raises:
        UsageError: an unknown key, or a value of the wrong type or range.
    """
    return build(Recipe, rename_keys(values))


def read_toml(path: Path, what: str = "recipe") -> dict[str, Any]:
    """Read a user's TOML file, called `what` in messages.

    Raises:
        NotFoundError: it can't be read.
        UsageError: it is not TOML.
    """
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise NotFoundError(f"{what} {path} can't be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{what} {path} is not TOML: {error}") from error


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


def build(kind: Any, values: Any, what: str = "recipe") -> Any:
    """Build a dataclass, and those within it, from nested plain data, called `what` in messages.

    Raises:
        UsageError: an unknown key, or a value of the wrong type or range.
    """
    _check_keys(kind, values, what)
    try:
        # As JSON, from which strict validation accepts lists for tuples.
        return TypeAdapter(kind).validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        # Without places in a list and kinds of a union.
        name = ".".join(part for part in first["loc"] if isinstance(part, str) and part.isidentifier())
        raise UsageError(f"{what}: {name} = {first['input']!r}: {first['msg']}") from error


def _check_keys(kind: Any, values: Any, what: str, where: str = "") -> None:
    if not isinstance(values, Mapping):
        raise UsageError(f"{what}: {where.rstrip('.')} is a section, not a value")
    kinds = {field.name: field.type for field in dataclasses.fields(kind)}
    for key, value in values.items():
        if key not in kinds:
            near = difflib.get_close_matches(key, kinds, n=1)
            hint = f"did you mean {where}{near[0]}?" if near else f"it knows {', '.join(sorted(kinds))}"
            hint = "only the old decoder overlap had it: leave it out" if key in OVERLAP_KEYS else hint
            raise UsageError(f"{what}: unknown key {where}{key}: {hint}")
        if dataclasses.is_dataclass(kinds[key]):
            _check_keys(kinds[key], value, what, f"{where}{key}.")
