"""A trained network as a folder: `model.safetensors` (weights) and `config.json` (everything else it needs).

Both are checked before use: their sizes before they are read, the hash of the weights, and each tensor against the
architecture in `config.json`. Nothing is unpickled, so a bundle can't run code.

Shapes: B images of H×W pixels, K classes.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vitseg.architecture import Architecture
from vitseg.config import build
from vitseg.errors import DataError, NotFoundError, UsageError
from vitseg.images.resize import resize_planes
from vitseg.json_input import parse_json
from vitseg.labels import Label, logit_count, palette, train_classes
from vitseg.model.convolutional_decoder import ConvolutionalArchitecture
from vitseg.model.segmenter import Segmenter, class_scores, scaled_to
from vitseg.old_keys import LATER_KEYS, OVERLAP_KEYS, rename_keys, without_overlap_keys, without_removed_keys
from vitseg.storage import LocalStore

SCHEMA = 1
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
FILES = (WEIGHTS, CONFIG)
"""In the order in which they are written: config.json makes the bundle exist."""

_KEYS = {"schema", "architecture", "classes", "image_size", "target", "normalization", "sha256"}
_CONFIG_BYTES = 1 << 20
_HEADER_BYTES = 1 << 20  # of the weights file, beside the tensors themselves
_LARGEST_SIDE = 1 << 16
_ADDED_KEYS = {"pixels": "fixed", **LATER_KEYS}
"""Keys of an architecture that older bundles lack, and the values that these had."""


@dataclass(frozen=True, eq=False)
class Bundle:
    """A network in evaluation mode, with what it takes to use it and to interpret its output."""

    model: Segmenter
    architecture: Architecture
    classes: tuple[Label, ...]
    """Labels in the order of train ids: class k of the scores is `classes[k]`. Empty: the output is an image."""
    image_size: tuple[int, int]
    """(H, W) pixels."""
    palette: np.ndarray
    """Colors of train ids, uint8 (256, 3)."""
    sha256: str
    """Identity of the model, whatever its name: of `config.json`, which holds the hash of the weights. So it covers all that
    a mask depends on: weights, classes with their names, ids and colors, architecture and image size."""
    weights_sha256: str
    """Of `model.safetensors` alone."""
    extra: dict[str, Any]
    """Further keys of `config.json`, such as the fingerprint of the data set."""

    def predict(self, images: Tensor, moments: tuple[float, float] | None = None) -> Tensor:
        """Return float32 class scores (B, K, H, W) of photographs uint8 (B, 3, H, W); the argmax is the class.

        Scores are those of `class_scores`, on the model's device. If the images are windows of a photograph, `moments`
        are its mean and deviation.

        Raises:
            DataError: a side of the images is no multiple of the patch size.
        """
        assert self.classes, "a model without classes has no scores: see colors"
        with torch.inference_mode():
            output = self.model(images.to(self.model.mean.device), moments=moments)
            return class_scores(output, self._class_colors, self.architecture.target)

    @functools.cached_property  # copied to a GPU once: such a copy waits for all that the GPU has to do
    def _class_colors(self) -> Tensor:
        return torch.from_numpy(self.palette[: len(self.classes)]).to(self.model.mean.device)

    def colors(self, images: Tensor, moments: tuple[float, float] | None = None) -> Tensor:
        """Return the color images float32 (B, 3, H, W), 0–1, of a model of target `rgb`; arguments as in `predict`."""
        assert self.architecture.target == "rgb", "a model of target classes gives scores: see predict"
        with torch.inference_mode():
            return self.model(images.to(self.model.mean.device), moments=moments).float()

    def segment(self, images: Tensor) -> Tensor:
        """Return the train ids uint8 (B, H, W) of photographs uint8 (B, 3, H, W), as the model sees them at its own size.

        A model without classes returns its images, uint8 (B, 3, H, W).
        """
        fitted = images if tuple(images.shape[-2:]) == self.image_size else resize_planes(images, self.image_size)
        if self.classes:
            return scaled_to(self.predict(fitted), images).argmax(1).to(torch.uint8)
        return (scaled_to(self.colors(fitted), images).clamp(0, 1) * 255).round().to(torch.uint8)


def save_bundle(
    folder: Path, model: Segmenter, classes: tuple[Label, ...], *, extra: Mapping[str, Any] | None = None
) -> str:
    """Write a bare network (not wrapped by DDP or `torch.compile`) to a folder: each file atomically, `config.json` last.

    Classes are labels in the order of train ids, none if the output is an image; `extra` are further keys of
    `config.json`. Returns the model's identity, as in `Bundle.sha256`; equal networks of equal classes have an equal one.

    Raises:
        DataError: the classes are not those of the network.
        StorageError: the folder can't be written.
    """
    _check_classes(classes, model.classes)
    weights = save({name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()})
    config = {
        "schema": SCHEMA,
        "architecture": dataclasses.asdict(model.architecture),
        "classes": [label.to_json() for label in classes],
        "image_size": list(model.image_size),
        "target": model.architecture.target,
        "normalization": _normalization(model),
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    assert not config.keys() & (extra or {}).keys(), "extra keys must not replace those of the format"
    content = json.dumps({**config, **(extra or {})}, indent=2).encode()
    store = LocalStore(Path(folder))
    store.write(WEIGHTS, weights)
    store.write(CONFIG, content)
    return hashlib.sha256(content).hexdigest()


def load_bundle(folder: Path) -> Bundle:
    """Read what `save_bundle` wrote, onto the CPU, in evaluation mode.

    Raises:
        NotFoundError: the folder or one of its files does not exist.
        DataError: the files are damaged, don't belong together, or have another format.
    """
    folder = Path(folder)
    content = _read(folder / CONFIG, _CONFIG_BYTES)
    config = _parse_config(folder / CONFIG, content)
    try:
        arch = architecture_from(config["architecture"])
        classes = tuple(Label.from_json(row) for row in config["classes"])
        image_size = image_size_from(config["image_size"])
        with torch.device("meta"):
            model = Segmenter(arch, image_size, logit_count(classes))
        _check_classes(classes, model.classes)
    except (DataError, UsageError, TypeError, OverflowError) as error:
        raise DataError(f"{folder / CONFIG} describes no network: {error}") from error
    if config["target"] != arch.target:
        raise DataError(f"{folder / CONFIG}: target {config['target']!r}, but the architecture's is {arch.target!r}")
    model.load_state_dict(_read_weights(folder, str(config["sha256"]), model.state_dict()), assign=True)
    if config["normalization"] != _normalization(model):
        raise DataError(f"{folder}: normalization differs between {CONFIG} and {WEIGHTS}")
    return Bundle(
        model=model.requires_grad_(False).eval(),
        architecture=arch,
        classes=classes,
        image_size=image_size,
        palette=palette(classes),
        sha256=hashlib.sha256(content).hexdigest(),
        weights_sha256=str(config["sha256"]),
        extra={key: value for key, value in config.items() if key not in _KEYS},
    )


def read_identity(folder: Path) -> str | None:
    """Return the identity that a folder's `config.json` gives its bundle, without a look at the weights; None: no file."""
    try:
        return hashlib.sha256(_read(Path(folder) / CONFIG, _CONFIG_BYTES)).hexdigest()
    except NotFoundError:
        return None


def _parse_config(path: Path, content: bytes) -> dict[str, Any]:
    try:
        config = rename_keys(parse_json(content))
    except (DataError, UsageError) as error:
        raise DataError(f"{path}: {error}") from error
    found = config.get("schema") if isinstance(config, dict) else None
    if found != SCHEMA:
        raise DataError(f"{path}: schema {found!r} is unknown, this version reads {SCHEMA}: update vitseg")
    if missing := sorted(_KEYS - config.keys()):
        raise DataError(f"{path} lacks {', '.join(missing)}")
    return config


def _read_weights(folder: Path, sha256: str, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    size = sum(value.nbytes for value in wanted.values())
    content = _read(path, size + _HEADER_BYTES)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(f"{path} is damaged, or not the one {CONFIG} belongs to (sha256 differs): fetch it again")
    try:
        tensors = load(content)
    except (SafetensorError, KeyError) as error:  # KeyError: of a type that torch does not have
        raise DataError(f"{path} is not a safetensors file: {error}") from error
    if wrong := sorted(wanted.keys() ^ tensors.keys()):
        raise DataError(f"{path} does not fit {CONFIG}: tensor {wrong[0]} is only in one of them")
    for name, value in tensors.items():
        if value.shape != wanted[name].shape or value.dtype != wanted[name].dtype:
            raise DataError(
                f"{path} does not fit {CONFIG}: {name} is {value.dtype} {tuple(value.shape)}, "
                f"not {wanted[name].dtype} {tuple(wanted[name].shape)}"
            )
    return tensors


def _read(path: Path, limit: int) -> bytes:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise NotFoundError(f"{path} does not exist: a model bundle is a folder with {CONFIG} and {WEIGHTS}") from error
    if size > limit:
        raise DataError(f"{path} has {size} bytes, more than the {limit} it may have")
    return LocalStore(path.parent).read(path.name)


def architecture_from(values: Any) -> Architecture:
    """Read the architecture in a `config.json`; DataError or UsageError for keys and values that don't fit."""
    if not isinstance(values, dict):
        raise DataError("architecture is not an object")
    values = {**_ADDED_KEYS, **without_removed_keys(values)}
    kind: type[Architecture] = Architecture
    if values.get("decoder") == "overlap":
        kind, values = ConvolutionalArchitecture, {**OVERLAP_KEYS, **values}
    else:
        values = without_overlap_keys(values)
    # A default can't stand for a missing number: the shapes of weights don't depend on all, such as heads.
    if missing := sorted({field.name for field in dataclasses.fields(kind)} - values.keys()):
        raise DataError(f"architecture lacks {', '.join(missing)}")
    arch = build(kind, values, "architecture")
    assert isinstance(arch, Architecture)
    return arch


def image_size_from(values: Any) -> tuple[int, int]:
    """Read the (H, W) in a `config.json`; DataError where it is something else."""
    match values:
        case [int(height), int(width)] if min(values) >= 1 and max(values) <= _LARGEST_SIDE:
            return height, width
    raise DataError(f"image_size {values!r} is not [height, width] in pixels")


def _normalization(model: Segmenter) -> dict[str, Any]:
    return {"mean": model.mean.tolist(), "std": model.std.tolist()}


def _check_classes(classes: tuple[Label, ...], count: int) -> None:
    if logit_count(classes) != count or (classes and classes != train_classes(classes)):
        raise DataError(f"a network of {count} classes needs {count} labels with train ids 0 to {count - 1} in order")
