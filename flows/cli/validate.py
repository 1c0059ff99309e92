"""What every command checks of its arguments before any server is started: a mistake costs a line, not a minute."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from vitseg.errors import NotFoundError, UsageError

_SIZE = re.compile(r"(\d+)x(\d+)$")


def parse_size(text: str) -> tuple[int, int]:
    """Read WIDTHxHEIGHT as (height, width).

    Raises:
        UsageError: it is something else.
    """
    match = _SIZE.match(text)
    if match is None or not (0 < int(match[1]) <= 16384 and 0 < int(match[2]) <= 16384):
        raise UsageError(f"size {text!r}: write WIDTHxHEIGHT in pixels, as 512x256")
    return int(match[2]), int(match[1])


def source(address: str) -> None:
    """Refuse an address under which there is nothing, before any server is started."""
    from vitseg.storage import open_store

    store = open_store(address)
    if next(iter(store.list()), None) is None:
        raise NotFoundError(f"{store.root} is empty or does not exist")


def shards(address: str) -> None:
    """Refuse an address without a readable manifest."""
    from vitseg.data.manifest import read_manifest

    read_manifest(address)


def model(address: str) -> None:
    """Refuse a model folder that is not there, or an address of no known form; registries are asked later."""
    if not address.startswith("models:") and not Path(address).is_dir():
        raise NotFoundError(f"{address} is no folder: name a bundle folder, models:/NAME@alias or models:/NAME/VERSION")


def choice(option: str, word: str, choices: Any) -> Any:
    """Return a word of `flows.choices`; refuse one that an option does not know."""
    if word not in get_args(choices):
        raise UsageError(f"{option} {word!r} does not exist: choose {', '.join(get_args(choices))}")
    return word


def recipe(preset: str, file: Path | None, overrides: Sequence[str]) -> Any:
    """Return the preset; refuse a wrong recipe before any server is started."""
    from vitseg.config import load_recipe

    load_recipe(preset, file, overrides)
    return preset


def init(address: str) -> str:
    """Refuse an `--init` that can't be before any server is started; return it as it means the same everywhere."""
    if not address:
        return ""
    from vitseg.training.initial_weights import check_address  # imports torch

    return check_address(address)


def size(size: tuple[int, int] | None, preset: str, file: Path | None, overrides: Sequence[str]) -> Any:
    """Return the preset; refuse a wrong recipe, or a size of samples that its patches don't fill."""
    from vitseg.config import load_recipe
    from vitseg.model.patches import patch_grid

    patch_size = load_recipe(preset, file, overrides).model.patch_size
    if size:
        patch_grid(size, patch_size)
    return preset


def gate(file: str) -> None:
    """Refuse wrong rules before anything is trained for them."""
    if file:
        from vitseg.registry.gate import read_gate

        read_gate(Path(file))


def server() -> None:
    """Refuse to go on where no Prefect server is named: what is registered with a temporary one is lost at once."""
    if not os.environ.get("PREFECT_API_URL"):
        raise UsageError("no Prefect server: start one with `vitseg stack up`, or name yours in PREFECT_API_URL")
