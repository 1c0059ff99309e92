"""Reads recipes from TOML files and `--set` overrides into the checked dataclasses of `recipe`.

A *preset* is a recipe file that ships with the package (`vitseg/recipes/tiny.toml` …). A user's own file overrides it, and
`--set a.b=c` overrides both. The resolved recipe is stored beside every checkpoint.
"""

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from vitseg.errors import NotFoundError, UsageError
from vitseg.old_keys import OVERLAP_KEYS, rename_keys
from vitseg.recipe import Recipe, RecipeRequest
from vitseg.recipes import PRESETS


def load_recipe(preset: str = "tiny", file: str | Path | None = None, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe of `load_request`: with the preset's batch, where the request leaves it to the device."""
    return load_request(preset, file, overrides).recipe


def load_request(preset: str = "tiny", file: str | Path | None = None, overrides: Sequence[str] = ()) -> RecipeRequest:
    """Return a preset, overridden by a user's TOML file and by `a.b=c` options, in this order.

    Raises:
        UsageError: an unknown preset, key or value; the message suggests the nearest key.
        NotFoundError: the file can't be read.
    """
    if preset not in PRESETS:
        raise UsageError(f"preset {preset!r} does not exist: choose {', '.join(PRESETS)}")
    values: dict[str, Any] = tomllib.loads((resources.files("vitseg") / "recipes" / f"{preset}.toml").read_text())
    preset_batch, changes = values["data"]["batch_size"], dict[str, Any]()
    own = rename_keys(read_toml(Path(file)), warn=True) if file is not None else {}
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals or name.count(".") != 1:
            raise UsageError(f"--set {override}: write SECTION.KEY=VALUE, as in run.epochs=20")
        section, key = name.strip().split(".")
        _merge(changes, {section: {key: _literal(text.strip())}})
    _merge(own, rename_keys(changes, warn=True))
    _merge(values, own)
    auto = isinstance(values["data"], Mapping) and values["data"]["batch_size"] == "auto"
    if auto:
        parts = values["optimizer"].get("accumulate", 1) if isinstance(values["optimizer"], Mapping) else 1
        parts = parts if isinstance(parts, int) and parts > 0 else 1  # what it can't be is refused below
        values["data"]["batch_size"] = -(-preset_batch // parts) * parts
    recipe = recipe_from(values)
    return RecipeRequest(recipe=recipe, auto_batch=auto, own_rate="learning_rate" in own.get("optimizer", {}))


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
