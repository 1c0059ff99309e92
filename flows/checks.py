"""What every command checks of its arguments before any server is started: a mistake costs a line, not a minute."""

from collections.abc import Sequence
from pathlib import Path

from vitseg.errors import NotFoundError, UsageError


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


def choices(option: str, wanted: Sequence[str], known: Sequence[str]) -> None:
    """Refuse a word that an option does not know."""
    for word in wanted:
        if word not in known:
            raise UsageError(f"{option} {word!r} does not exist: choose {', '.join(known)}")


def recipe(preset: str, file: Path | None, overrides: Sequence[str]) -> None:
    """Refuse a wrong recipe before any server is started."""
    from vitseg.config import load_recipe

    load_recipe(preset, file, overrides)


def init(address: str) -> str:
    """Refuse an `--init` that can't be before any server is started; return it as it means the same everywhere."""
    if not address:
        return ""
    from vitseg.training.initial import check_address  # imports torch

    return check_address(address)


def size(size: tuple[int, int] | None, preset: str, file: Path | None, overrides: Sequence[str]) -> None:
    """Refuse a wrong recipe, or a size of samples that its patches don't fill, before anything is prepared."""
    from vitseg.config import load_recipe
    from vitseg.model.patches import patch_grid

    patch_size = load_recipe(preset, file, overrides).model.patch_size
    if size:
        patch_grid(size, patch_size)
