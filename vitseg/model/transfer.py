"""Start a network from the weights of another one of ours: the whole encoder, and the decoder where it is the same.

The rows of the last layer that write scores are taken by the names of their classes; those of new classes start at 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vitseg.architecture import Architecture
from vitseg.class_change import class_change, match_names
from vitseg.errors import DataError, UsageError
from vitseg.model.patches import patch_grid, resample_positions

POSITION = "encoder.embedding.position"

# What must be equal for the encoders to compute the same. Not all of it changes the shapes of weights, as heads.
_ENCODER_KEYS = (
    "patch_size", "pixels", "position", "encoder_projection", "blocks", "heads", "head_width", "mlp_units", "skip_projection",
    "normalization", "class_token", "registers", "activation", "pre_norm",
)  # fmt: skip


def encoder_keys(arch: Architecture) -> dict[str, Any]:
    """Return the values of an architecture by which its encoder computes."""
    keys = (*_ENCODER_KEYS, "norm_epsilon", "layer_scale")
    return {key: getattr(arch, key) for key in (*keys, *(("spatial_embedding",) if arch.position == "concat" else ()))}


@dataclass(frozen=True)
class Transfer:
    """Tensors by their names in the new network, and a description of them in words."""

    tensors: dict[str, Tensor]
    taken: str


@dataclass(frozen=True)
class Head:
    """The last layer of two networks of target `classes`: which class each row scores, before and after."""

    tensors: tuple[str, ...]
    """Names of its tensors; rows are the scores of one pixel, of the next, and so on."""
    classes: tuple[Sequence[str], Sequence[str]]
    """Names of the old and the new network's classes."""
    channels: tuple[int, int]
    """Scores of a pixel: as many as classes, or 1 for the foreground of a binary network."""


def transfer_weights(
    weights: Mapping[str, Tensor],
    source: tuple[Architecture, tuple[int, int]],
    target: tuple[Architecture, tuple[int, int]],
    wanted: Mapping[str, Tensor],
    head: Head | None = None,
) -> Transfer:
    """Return the weights that a new network can take over from another one.

    Args:
        weights: state dict of a `Segmenter`, or that part of it which is the encoder's.
        source: architecture and image size (H, W) of the old network.
        target: those of the new network.
        wanted: state dict of the new network; it may be on the meta device, as only shapes matter.
        head: the last layer, whose rows are then taken by the names of their classes.

    Raises:
        UsageError: the encoders differ; the message names the recipe's keys.
        DataError: the weights don't belong to the old network.
    """
    old, new = source[0], target[0]
    keys = (*_ENCODER_KEYS, *(("spatial_embedding",) if old.position == new.position == "concat" else ()))
    wrong = [key for key in keys if getattr(old, key) != getattr(new, key)]
    if (old.layer_scale > 0) != (new.layer_scale > 0):
        wrong.append("layer_scale")
    if wrong:
        options = " ".join(f"--set model.{key}={option(getattr(old, key))}" for key in wrong)
        raise UsageError(f"its encoder is not this recipe's: {options} makes them equal")
    grids = [patch_grid(size, old.patch_size) for _, size in (source, target)]
    fitted = dict(weights)
    if old.position != "rotary":
        position = weights.get(POSITION)
        if position is None or position.ndim != 2 or len(position) != grids[0][0] * grids[0][1]:
            raise DataError(f"it holds no {POSITION} for {grids[0][0]}×{grids[0][1]} patches")
        fitted[POSITION] = resample_positions(position, grids[0], grids[1])
    # Tensors of different decoders may agree in name and shape, but not in meaning.
    same_decoder = (old.decoder, old.target) == (new.decoder, new.target)
    words = ""
    if head and same_decoder and new.target == "classes" and list(head.classes[0]) != list(head.classes[1]):
        fitted, words = _fit_head(fitted, head)
    tensors, left = {}, []
    for name in wanted:
        if name in ("mean", "std"):
            continue
        fits = name in fitted and fitted[name].shape == wanted[name].shape
        if fits and (name.startswith("encoder.") or same_decoder):
            tensors[name] = fitted[name]
        elif name.startswith("encoder."):
            raise UsageError(f"it can't be a start here: its {name} is missing or of another shape")
        else:
            left.append(name)
    return Transfer(tensors, _in_words(tensors, left, grids) + words)


def _fit_head(weights: Mapping[str, Tensor], head: Head) -> tuple[dict[str, Tensor], str]:
    """Return the weights with the last layer of the new network, as far as classes are known, and what that means in words."""
    old, new = (names[:count] for names, count in zip(head.classes, head.channels, strict=True))
    change = class_change(old, new)
    # A decoder that reads its own scores, as the spiral one does, has learned the order of the classes there, too.
    fitted = {name: value for name, value in weights.items() if name not in head.tensors and ".made." not in name}
    if change.shared:
        places = match_names(new, old)
        fitted |= {name: _rows_of(weights[name], places, len(old)) for name in head.tensors}
    words = f"; classes that it knows: {', '.join(change.shared) or 'none'}"
    return fitted, words + (f"; from scratch: {', '.join(change.added)}" if change.added else "")


def _rows_of(tensor: Tensor, places: Sequence[int | None], count: int) -> Tensor:
    """Return the rows of classes at these places among `count` for each pixel, zeros for None."""
    rows = tensor.unflatten(0, (-1, count))
    found = torch.stack([torch.zeros_like(rows[:, 0]) if place is None else rows[:, place] for place in places], dim=1)
    if len(places) == 1 < count:  # binary: against a background that scores 0; so far, against the other classes
        found -= rows[:, [place for place in range(count) if place != places[0]]].mean(1, keepdim=True)
    return found.flatten(0, 1)


def option(value: object) -> str:
    """Format a value of a recipe as `--set` takes it, without spaces."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)).replace(" ", "") if isinstance(value, tuple) else str(value)


def _in_words(tensors: Mapping[str, Tensor], left: list[str], grids: list[tuple[int, int]]) -> str:
    decoder = [name for name in tensors if not name.startswith("encoder.")]
    words = "the encoder"
    if POSITION in tensors and grids[0] != grids[1]:
        words += f" (positions resampled from {grids[0][0]}×{grids[0][1]} to {grids[1][0]}×{grids[1][1]} patches)"
    words += f" and {len(decoder)} tensors of the decoder" if decoder else ", nothing of the decoder"
    return words + (f"; new are {len(left)} tensors: {', '.join(left[:3])}{' …' if left[3:] else ''}" if left else "")
