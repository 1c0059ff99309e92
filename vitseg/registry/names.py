"""Names in the registry, checked before any work: what MLflow refuses, and what no `models:/` address can hold.

This module does not import MLflow, so that the command line can ask it at once.
"""

import re
from typing import NamedTuple

from vitseg.errors import UsageError

_RESERVED = '/:@?#%"'
"""MLflow refuses the first two; the others end a name in an address, or in MLflow's search."""
_MAX_BYTES = 200  # MLflow's run is called after model and job; locally, shards are a folder of this name
_ALIAS = re.compile(r"[\w-]{1,255}")
_RESERVED_ALIAS = re.compile(r"latest|v\d+", re.IGNORECASE)
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_ADDRESS = re.compile(r"models:/(?P<name>[^/@]*)(?:@(?P<alias>[^/@]*)|/(?P<version>[^/@]*))")


class ModelAddress(NamedTuple):
    """A parsed `models:/NAME@alias` or `models:/NAME/VERSION`; the part that is not there is empty."""

    name: str
    alias: str
    version: str


def check_name(name: str) -> str:
    """Return the name of a registered model.

    Raises:
        UsageError: no model can have this name, or none of this name can be addressed.
    """
    problem = ""
    if found := sorted(set(name) & set(_RESERVED)):
        problem = f"it can't hold {' '.join(found)}"
    elif not name.strip() or name != name.strip():
        problem = "it can't be empty, nor begin or end with a blank"
    elif not name.isprintable():
        problem = "it holds a character that can't be seen"
    elif name == "." or name.startswith(".."):
        problem = "it would be a path"
    elif len(name.encode()) > _MAX_BYTES:
        problem = f"it is longer than {_MAX_BYTES} bytes"
    if problem:
        raise UsageError(f"{name!r} can't be the name of a registered model: {problem}")
    return name


def check_optional_name(name: str) -> str:
    """Return a name as `check_name` does, or "", which stands for none."""
    return check_name(name) if name else ""


def check_version(version: str, name: str) -> str:
    """Return the number of a version, or raise a UsageError."""
    if not _VERSION.fullmatch(version):
        raise UsageError(f"version {version!r} is no number: see `vitseg registry list --name {name}`")
    return version


def parse_address(address: str) -> ModelAddress:
    """Return the parts of `models:/NAME@alias` or `models:/NAME/VERSION`.

    Raises:
        UsageError: it has another form, or a name, alias or number that can't exist.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise UsageError(f"model {address}: write models:/NAME@alias, models:/NAME/VERSION or a bundle folder")
    name, alias, version = (match[key] or "" for key in ("name", "alias", "version"))
    check_name(name)
    if "@" not in address:
        check_version(version, name)
    elif not _ALIAS.fullmatch(alias) or _RESERVED_ALIAS.fullmatch(alias):
        raise UsageError(
            f"model {address}: no alias is called {alias!r}; letters, digits, _ and - make one, except latest and v1, v2 …"
        )
    return ModelAddress(name, alias, version)
