"""Start a network from the weights of another one of ours: the whole encoder, and the decoder where it is the same."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from vitseg.architecture import Architecture
from vitseg.errors import DataError, UsageError
from vitseg.model.patches import patch_grid, resample_positions

POSITION = "encoder.embedding.position"

# What must be equal for the encoders to compute the same. Not all of it changes the shapes of weights, as heads.
_ENCODER_KEYS = (
    "patch_size", "pixels", "position", "encoder_projection", "blocks", "heads", "head_width", "mlp_units", "skip_projection",
    "normalization", "class_token",
)  # fmt: skip


@dataclass(frozen=True)
class Transfer:
    """Tensors by their names in the new network, and a description of them in words."""

    tensors: dict[str, Tensor]
    taken: str


def transfer_weights(
    weights: Mapping[str, Tensor],
    source: tuple[Architecture, tuple[int, int]],
    target: tuple[Architecture, tuple[int, int]],
    wanted: Mapping[str, Tensor],
) -> Transfer:
    """Return the weights that a new network can take over from another one.

    Args:
        weights: state dict of a `Segmenter`, or that part of it which is the encoder's.
        source: architecture and image size (H, W) of the old network.
        target: those of the new network.
        wanted: state dict of the new network; it may be on the meta device, as only shapes matter.

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
    position = weights.get(POSITION)
    if position is None or position.ndim != 2 or len(position) != grids[0][0] * grids[0][1]:
        raise DataError(f"it holds no {POSITION} for {grids[0][0]}×{grids[0][1]} patches")
    fitted = {**weights, POSITION: resample_positions(position, grids[0], grids[1])}
    # Tensors of different decoders may agree in name and shape, but not in meaning.
    same_decoder = (old.decoder, old.target) == (new.decoder, new.target)
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
    return Transfer(tensors, _in_words(tensors, left, grids))


def option(value: object) -> str:
    """Format a value of a recipe as `--set` takes it, without spaces."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)).replace(" ", "") if isinstance(value, tuple) else str(value)


def _in_words(tensors: Mapping[str, Tensor], left: list[str], grids: list[tuple[int, int]]) -> str:
    decoder = [name for name in tensors if not name.startswith("encoder.")]
    words = "the encoder"
    if grids[0] != grids[1]:
        words += f" (positions resampled from {grids[0][0]}×{grids[0][1]} to {grids[1][0]}×{grids[1][1]} patches)"
    words += f" and {len(decoder)} tensors of the decoder" if decoder else ", nothing of the decoder"
    return words + (f"; new are {len(left)} tensors: {', '.join(left[:3])}{' …' if left[3:] else ''}" if left else "")
