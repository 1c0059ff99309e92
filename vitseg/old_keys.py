"""Keys that had another name once: this is the only place that knows both.

Files that vitseg wrote (bundles, jobs, checkpoints) are read without a word, however old they are. The old keys in a user's
recipe or `--set` are read for one version more, with a warning; but those of the decoder that went are refused there.
"""

import logging
from collections.abc import Mapping
from functools import cache
from typing import Any

from vitseg.errors import UsageError

log = logging.getLogger(__name__)

NEW_NAMES = {"optimiser": "optimizer", "normalisation": "normalization", "fine_reach": "fine_radius"}
OVERLAP_KEYS = {"fine_heads": 2, "fine_radius": 2, "narrow_width": 64}
"""Keys that every architecture had as long as recipes could ask for the decoder `overlap`, and their defaults."""
LATER_KEYS = {"registers": 0, "encoder": "trained", "activation": "gelu", "pre_norm": False, "depths": 1}
"""Keys of an architecture that it did not have when digests of jobs were first written, and what it was without them."""
REMOVED_KEYS = {"query_key_norm": False}
"""Keys that an architecture no longer has, and the value at which it is the same without them."""
LATER_OPTIMIZER_KEYS = {"encoder_rate": 0.0, "layer_decay": 1.0}
"""The same of the section `optimizer`."""
OLD_NAMES = {new: old for old, new in NEW_NAMES.items()}


def rename_keys(values: Any, names: Mapping[str, str] = NEW_NAMES, *, warn: bool = False) -> Any:
    """Return nested plain data with its keys renamed, at any depth; `warn` about each old key once in a process.

    Raises:
        UsageError: a key is there under both of its names.
    """
    if not isinstance(values, Mapping):
        return values
    for old in names.keys() & values.keys():
        if names[old] in values:
            raise UsageError(f"{old} is the old name of {names[old]}: set {names[old]} only")
        if warn:
            _warn_once(f"{old} is called {names[old]} now: please rename it, the next version won't know {old}")
    return {names.get(key, key): rename_keys(value, names, warn=warn) for key, value in values.items()}


def without_removed_keys(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """Return an architecture as vitseg wrote it without keys that are gone, where their value changes nothing."""
    renamed = rename_keys(architecture).items()
    return {key: value for key, value in renamed if key not in REMOVED_KEYS or value != REMOVED_KEYS[key]}


def without_overlap_keys(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same, without the keys that only the decoder `overlap` reads, too."""
    return {key: value for key, value in without_removed_keys(architecture).items() if key not in OVERLAP_KEYS}


def current_start(start: str) -> str:
    """Return `scratch` for its old name, with a warning, and every other start of a retraining as it is."""
    if start != "chance":
        return start
    _warn_once("start: chance is called scratch now: please rename it, the next version won't know chance")
    return "scratch"


@cache
def _warn_once(text: str) -> None:
    log.warning(text)
