"""How a version came to be: its data and its training, as `record.json` in its run.

It is written once, when the version is registered: the shards may change with the next training, and a run's parameters
lack the machine.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from vitseg.config import build
from vitseg.data.manifest import Manifest
from vitseg.errors import DataError, NotFoundError, UsageError
from vitseg.git_commit import code_commit
from vitseg.origin import Origin
from vitseg.registry import tracking

_NAME = "record.json"
_PACKAGES = ("vitseg", "torch", "numpy", "webdataset", "mlflow", "prefect")


@dataclass(frozen=True)
class SplitProvenance:
    """A split of the data: number of samples, digest of its content, labeled pixels of each class."""

    samples: int
    digest: str
    pixels: tuple[int, ...]

    def share(self, index: int) -> float:
        """Return a class's share of all labeled pixels, 0–1."""
        return self.pixels[index] / max(1, sum(self.pixels))


@dataclass(frozen=True)
class Provenance:
    """What a version was trained on, and how."""

    shards: str
    fingerprint: str
    image_size: tuple[int, int]
    """Height and width of the samples, pixels."""
    classes: tuple[str, ...]
    splits: Mapping[str, SplitProvenance]
    skipped: int
    """Sources that could not be used."""
    recipe: str
    """Digest of the recipe, which the run holds as `recipe.json`."""
    seed: int
    init: str
    """Address of the initial weights; "": from scratch."""
    world_size: int
    seconds: float
    """From the creation of the run to the registration, including pauses."""
    attempts: int
    """How often the training was started; more than once if it was interrupted."""
    flow_run: str
    """Name or address of the Prefect flow run that finished it."""
    commit: str
    """Git commit of the code, with `+` if files differed from it; "": unknown."""
    device: str
    origin: Origin = field(default_factory=Origin)
    """Of the published weights that it began with, itself or by way of other versions."""
    precision: str = ""
    """What its forward passes computed in; "": unknown, as of earlier versions."""
    versions: Mapping[str, str] = field(default_factory=dict)
    network_size: tuple[int, int] | None = None
    """Height and width to which the network has photographs resized; None: unknown, as of earlier versions."""
    warnings: tuple[str, ...] = ()
    """What is likely a mistake in the labels, as preprocessing found."""


def data_fields(manifest: Manifest) -> dict[str, Any]:
    """Return the fields of a `Provenance` that describe the data."""
    return {
        "fingerprint": manifest.fingerprint,
        "image_size": manifest.image_size,
        "classes": tuple(label.name for label in manifest.classes),
        "splits": {
            name: SplitProvenance(split.samples, split_digest(manifest, name), split.pixels_per_class)
            for name, split in manifest.splits.items()
        },
        "skipped": len(manifest.skipped),
        "warnings": manifest.warnings,
    }


def environment_fields() -> dict[str, Any]:
    """Return the fields of a `Provenance` that describe this process: code, packages, device."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"commit": code_commit(), "device": device, "versions": versions}


def split_digest(manifest: Manifest, split: str) -> str:
    """Return 16 hex digits that are equal for splits of exactly the same samples."""
    content = "".join(f"{shard.sha256}\n" for shard in manifest.splits[split].shards)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def write_provenance(run_id: str, provenance: Provenance) -> None:
    """Store the provenance of a version in its run."""
    tracking.log_text(run_id, json.dumps(asdict(provenance), indent=1), _NAME)


def read_provenance(run_id: str) -> Provenance | None:
    """Return the provenance that a run holds; None: it holds none, as runs of early versions of vitseg.

    Raises:
        DataError: it can't be read.
    """
    if not run_id:
        return None
    try:
        text = tracking.read_text(run_id, _NAME)
    except NotFoundError:
        return None
    try:
        return build(Provenance, json.loads(text), "record")
    except (ValueError, UsageError) as error:
        raise DataError(f"{_NAME} of run {run_id}: {error}") from error
