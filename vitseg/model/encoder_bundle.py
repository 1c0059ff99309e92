"""An encoder without a decoder as two files: `encoder.safetensors` (weights) and `config.json` (its architecture).

`vitseg pretrain` writes them and `vitseg train --init` starts from them. As with a model bundle, nothing is unpickled
and everything is checked.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vitseg.architecture import Architecture
from vitseg.errors import DataError, UsageError
from vitseg.model.bundle import architecture_from, image_size_from

SCHEMA = 1
KIND = "encoder"
WEIGHTS = "encoder.safetensors"
CONFIG = "config.json"


@dataclass(frozen=True, eq=False)
class EncoderBundle:
    """Weights by their names in a `Segmenter` (`encoder.…`), and the architecture and image size (H, W) of their network."""

    tensors: dict[str, Tensor]
    architecture: Architecture
    image_size: tuple[int, int]


def pack_encoder(bundle: EncoderBundle, extra: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the content of the two files by name, `config.json` last; `extra` keys are added to it."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in bundle.tensors.items()}
    weights = save(tensors)
    config = {
        "schema": SCHEMA,
        "kind": KIND,
        "architecture": dataclasses.asdict(bundle.architecture),
        "image_size": list(bundle.image_size),
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    assert not config.keys() & extra.keys(), "extra keys must not replace those of the format"
    return {WEIGHTS: weights, CONFIG: json.dumps({**config, **extra}, indent=2).encode()}


def unpack_encoder(config: Mapping[str, Any], weights: bytes) -> EncoderBundle:
    """Read what `pack_encoder` wrote; DataError where the two don't belong together, or are damaged."""
    if config.get("schema") != SCHEMA or config.get("kind") != KIND:
        raise DataError(f"{CONFIG} is not that of an encoder: update vitseg, or name another folder")
    if hashlib.sha256(weights).hexdigest() != config.get("sha256"):
        raise DataError(f"{WEIGHTS} is damaged, or not the one {CONFIG} belongs to (sha256 differs): fetch it again")
    try:
        arch, size = architecture_from(config.get("architecture")), image_size_from(config.get("image_size"))
        return EncoderBundle(load(weights), arch, size)
    except (SafetensorError, KeyError, DataError, UsageError, TypeError) as error:
        raise DataError(f"the encoder can't be read: {error}") from error
