"""How a version came to be: its data and its making, as `record.json` in its run, for whoever has to judge it later.

The shards of a version change with the next training, and its run's parameters don't say on what it ran: so this is
written when the version is registered, and never again.
"""

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from vitseg.data.manifest import Manifest
from vitseg.errors import DataError, NotFoundError
from vitseg.git_commit import code_commit
from vitseg.json_input import malformed_as_data_error, parse_json
from vitseg.registry import tracking
from vitseg.registry.comparison import holdout_digest

_NAME = "record.json"
_PACKAGES = ("vitseg", "torch", "numpy", "webdataset", "mlflow", "prefect")


@dataclass(frozen=True)
class SplitRecord:
    """One split of the data: number of samples, digest of what it holds, labeled pixels of each class."""

    samples: int
    digest: str
    pixels: tuple[int, ...]

    def share(self, index: int) -> float:
        """Return a class's share of all labeled pixels, 0–1."""
        return self.pixels[index] / max(1, sum(self.pixels))


@dataclass(frozen=True)
class Record:
    """What a version was trained on (`splits`, `classes`, `image_size`: height, width) and how it was made."""

    shards: str
    fingerprint: str
    image_size: tuple[int, int]
    classes: tuple[str, ...]
    splits: Mapping[str, SplitRecord]
    skipped: int
    """Sources that were left out."""
    recipe: str
    """Digest of the recipe; the recipe is in the run, as `recipe.json`."""
    seed: int
    init: str
    """What it started from; "": chance."""
    world_size: int
    seconds: float
    """From the start of the run to its registration, pauses included."""
    attempts: int
    """Times the training was started: more than one, it was cut off and went on."""
    flow_run: str
    """Name or address of the Prefect flow run that finished it."""
    commit: str
    """Git commit of the code, with `+` where files differed from it; "": unknown."""
    device: str
    versions: Mapping[str, str] = field(default_factory=dict)


def data_of(manifest: Manifest) -> dict[str, Any]:
    """Return the part of a record that a manifest tells."""
    return {
        "fingerprint": manifest.fingerprint,
        "image_size": manifest.image_size,
        "classes": tuple(label.name for label in manifest.classes),
        "splits": {
            name: SplitRecord(split.samples, holdout_digest(manifest, name), split.pixels_per_class)
            for name, split in manifest.splits.items()
        },
        "skipped": len(manifest.skipped),
    }


def machine() -> dict[str, Any]:
    """Return the part of a record that this process can tell: code, versions, device."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"commit": code_commit(), "device": device, "versions": versions}


def write_record(run_id: str, record: Record) -> None:
    """Put a record into a run."""
    tracking.log_text(run_id, json.dumps(asdict(record), indent=1), _NAME)


def read_record(run_id: str) -> Record | None:
    """Return a run's record; None where it has none, as versions from before there were any.

    Raises:
        DataError: it is there, but can't be read.
    """
    try:
        text = tracking.read_text(run_id, _NAME) if run_id else ""
    except NotFoundError:
        return None
    if not text:
        return None
    try:
        return _from_json(parse_json(text.encode()))
    except DataError as error:
        raise DataError(f"{_NAME} of run {run_id}: {error}") from error


@malformed_as_data_error()
def _from_json(row: dict[str, Any]) -> Record:
    splits = {
        str(name): SplitRecord(int(split["samples"]), str(split["digest"]), tuple(map(int, split["pixels"])))
        for name, split in row["splits"].items()
    }
    height, width = map(int, row["image_size"])
    return Record(**{**row, "splits": splits, "classes": tuple(row["classes"]), "image_size": (height, width)})
