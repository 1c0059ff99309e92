"""What commands check of their arguments before any server is started: a mistake costs a line, not a minute.

`parse_` functions turn the text of an option into what flows take, or refuse it; the others only refuse what can't be.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from vitseg.errors import NotFoundError, UsageError
from vitseg.inference.job import PICTURES
from vitseg.old_keys import current_start
from vitseg.recipes import Start
from vitseg.registry.names import parse_address
from vitseg.storage import LocalStore, open_store
from vitseg.training.nodes import Nodes

_SIZE = re.compile(r"(\d+)(?:x(\d+))?")
_MAX_SIDE = 16384


def parse_size(text: str) -> tuple[int, int]:
    """Return WIDTHxHEIGHT, or N for a square, as (height, width)."""
    match = _SIZE.fullmatch(text)
    width, height = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not (0 < width <= _MAX_SIDE and 0 < height <= _MAX_SIDE):
        raise UsageError(f"size {text!r}: write WIDTHxHEIGHT in pixels, as 512x256, or one number for a square")
    return height, width


def parse_start(text: str) -> str:
    """Return the start of a retraining; the old word for `scratch` is still read."""
    start = current_start(text)
    if start not in get_args(Start):
        raise UsageError(f"--start {text}: choose {' or '.join(get_args(Start))}")
    return start


def parse_pictures(text: str) -> list[str]:
    """Return the pictures that a list with commas names."""
    names = [name for name in text.split(",") if name]
    if unknown := set(names) - PICTURES.keys():
        raise UsageError(f"--also {','.join(sorted(unknown))}: choose from {', '.join(PICTURES)}")
    return names


def source(address: str) -> None:
    """Refuse an address under which there is nothing."""
    store = open_store(address)
    if next(iter(store.list()), None) is None:
        if isinstance(store, LocalStore) and store.folder.is_file():
            raise UsageError(f"{store.root} is a file: SOURCE is the folder that photographs and labels lie in")
        raise NotFoundError(f"{store.root} is empty or does not exist")


def shards(address: str) -> None:
    """Refuse an address without a readable manifest."""
    from vitseg.data.manifest import read_manifest

    read_manifest(address)


def model(address: str) -> None:
    """Refuse a folder that is not there, and an address that can't exist; the registry is not asked yet."""
    if address.startswith("models:"):
        parse_address(address)
    elif not Path(address).is_dir():
        raise NotFoundError(f"{address} is no folder: name a bundle folder, models:/NAME@alias or models:/NAME/VERSION")


def recipe(preset: str, file: str | None, overrides: Sequence[str], starts: bool = False) -> None:
    """Refuse a wrong recipe; of a training that `starts` from weights, [model] is checked when they are read."""
    from vitseg.config import load_layers

    layers = load_layers(preset, file, overrides)
    own = {section: keys for section, keys in layers.own.items() if section != "model" or not starts}
    replace(layers, own=own).request()


def nodes(nproc: int | None, nnodes: int, rendezvous: str, first: bool = True) -> None:
    """Refuse several nodes without a place to meet, and one more node where there is no other."""
    Nodes(nproc or 1, nnodes, rendezvous, first)


def init(address: str) -> str:
    """Return the address of initial weights as it means the same everywhere; refuse one of no known form."""
    if not address:
        return ""
    from vitseg.training.start_address import check_address  # imports torch

    return check_address(address)


def gate(file: str | None) -> None:
    """Refuse wrong rules."""
    if file:
        from vitseg.registry.gate import read_gate

        read_gate(Path(file))


def server() -> None:
    """Refuse to register anything with a temporary Prefect server: it would be lost at once."""
    if not os.environ.get("PREFECT_API_URL"):
        raise UsageError("no Prefect server: start one with `vitseg stack up`, or name yours in PREFECT_API_URL")
