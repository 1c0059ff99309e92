"""Published weights of plain Vision Transformers as weights of our encoder, without a convolution.

It reads the tensor names of Hugging Face transformers (`ViTModel` and models that contain it, as published and as
transformers 5 names them in memory) and of timm. Their patch embedding is a convolution whose stride is its kernel, that
is, a linear layer on flattened patches; and other pixel statistics differ from ours by a linear map. Both are folded
into the projection, in float64, so the encoder computes what the original computes.

Shapes: P side of a patch, N patches, D width of a token.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from vitseg.architecture import Architecture
from vitseg.errors import DataError, UsageError
from vitseg.model.encoder import VisionTransformer
from vitseg.model.patches import resample_positions
from vitseg.model.transfer import option

_STEM = {
    "embeddings.cls_token": "class_token",
    "cls_token": "class_token",
    "embeddings.position_embeddings": "embedding.position",
    "pos_embed": "embedding.position",
    "embeddings.patch_embeddings.projection": "embedding.projection",
    "patch_embed.proj": "embedding.projection",
    "layernorm": "norm",
    "norm": "norm",
}
_BLOCK = re.compile(r"(?:encoder\.layer|layers|blocks)\.(\d+)\.(.+)")
_PARTS = {
    "layernorm_before": "attention_norm",
    "norm1": "attention_norm",
    "attention.attention.query": "attention.query",
    "attention.attention.key": "attention.key",
    "attention.attention.value": "attention.value",
    "attention.q_proj": "attention.query",
    "attention.k_proj": "attention.key",
    "attention.v_proj": "attention.value",
    "attn.qkv": "attention.qkv",
    "attention.output.dense": "attention.output",
    "attention.o_proj": "attention.output",
    "attn.proj": "attention.output",
    "layernorm_after": "mlp_norm",
    "norm2": "mlp_norm",
    "intermediate.dense": "mlp.layers.0",
    "output.dense": "mlp.layers.1",
    "mlp.fc1": "mlp.layers.0",
    "mlp.fc2": "mlp.layers.1",
}
# After the last norm: classifiers, poolers and decoders of masked pretraining. They are left out.
_HEADS = ("pooler.", "classifier.", "head.", "decoder.", "pre_logits.", "embeddings.mask_token")


@dataclass(frozen=True)
class PixelStats:
    """Normalization of pixels by channel, in the 0–1 scale: (value - mean) / std. The defaults are the original ViT's."""

    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        """Check the ranges."""
        if len(self.mean) != 3 or len(self.std) != 3 or not all(0 < std < math.inf for std in self.std):
            raise DataError(f"pixel mean {self.mean} and std {self.std} are not three numbers each, std above 0")


@dataclass(frozen=True, eq=False)
class Published:
    """A published encoder: what its file and those beside it say."""

    architecture: dict[str, Any]
    """Values by key of `Architecture`, for all that they decide."""
    pixels: PixelStats
    """Normalization of the pixels that the weights were trained on."""
    family: str
    """Which one it is, for people."""
    tensors: Mapping[str, Tensor]
    """By our names, as far as we have them in the same form."""
    assumed: frozenset[str] = frozenset()
    """Keys of `architecture`, and `pixels`, that nothing states: their values are those of most models of the family."""


def read_published(
    state: Mapping[str, Tensor], config: Mapping[str, Any], preprocessor: Mapping[str, Any]
) -> Published:
    """Read what a published encoder is out of its weights and the files beside them.

    Args:
        state: a state dict with the names of transformers (with or without `vit.`) or timm.
        config: content of `config.json`; empty where there is none.
        preprocessor: content of `preprocessor_config.json`; empty where there is none.

    Raises:
        UsageError: it is no Vision Transformer of a known family; the message names a tensor or key that is unknown.
        DataError: a tensor is missing or malformed.
    """
    found = _our_names(state)
    if (activation := config.get("hidden_act", "gelu")) != "gelu":
        raise UsageError(f"its activation is {activation!r}, this encoder's is gelu: choose another one")
    projection = found["embedding.projection.weight"]
    if projection.ndim != 4 or projection.shape[1] != 3 or projection.shape[2] != projection.shape[3]:
        raise DataError(f"the projection of patches has shape {tuple(projection.shape)}, not (D, 3, P, P)")
    width, patch_size = projection.shape[0], projection.shape[2]
    blocks = 1 + max((int(name.split(".")[1]) for name in found if name.startswith("blocks.")), default=-1)
    first, output = (found.get(f"blocks.0.{part}.weight") for part in ("mlp.layers.0", "attention.output"))
    if first is None or output is None or first.ndim != 2 or output.ndim != 2:
        raise DataError("the weights have no Transformer blocks")
    attention = output.shape[1]
    heads, epsilon = config.get("num_attention_heads"), config.get("layer_norm_eps")
    assumed = set() if epsilon else {"norm_epsilon"}
    if not isinstance(heads, int) or heads < 1:
        assumed |= {"heads", "head_width"}
        heads = next(count for count in range(max(1, attention // 64), 0, -1) if attention % count == 0)
    architecture = {
        "patch_size": patch_size, "pixels": "fixed", "position": "add", "class_token": "class_token" in found,
        "encoder_projection": width, "blocks": blocks, "heads": heads, "head_width": attention // heads,
        "mlp_units": (first.shape[0], width), "normalization": "layer", "norm_epsilon": epsilon or 1e-6,
        "skip_projection": False, "layer_scale": 0.0, "registers": 0,
    }  # fmt: skip
    pixels = _pixels(config, preprocessor)
    assumed |= {"pixels"} if pixels is None else set()
    return Published(architecture, pixels or PixelStats(), f"ViT/{patch_size}", found, frozenset(assumed))


def encoder_from_published(
    published: Published, arch: Architecture, grid: tuple[int, int], ours: PixelStats
) -> dict[str, Tensor]:
    """Convert published weights to those of `VisionTransformer`.

    Args:
        published: what `read_published` returned.
        arch: of the encoder.
        grid: rows and columns of patches in our images; positions are resampled to it, bicubically.
        ours: normalization of the pixels that the encoder will get.

    Returns:
        float32 tensors by the encoder's own names.

    Raises:
        UsageError: they are not those of this architecture: the message names the recipe's keys.
        DataError: a tensor is missing, malformed, or not finite.
    """
    _check_fit(published, arch)
    with torch.device("meta"):
        expected = VisionTransformer(arch, grid).state_dict()
    found = published.tensors
    ready = {**found, **_changed(found, arch, grid, _pixel_map(ours, published.pixels))}
    weights = {name: _tensor(ready, name, *tensor.shape) for name, tensor in expected.items()}
    if broken := next((name for name, tensor in weights.items() if not tensor.isfinite().all()), None):
        raise DataError(f"{broken} holds values that are not finite: the file is damaged")
    return {name: tensor.to(torch.float32).contiguous() for name, tensor in weights.items()}


def _tensor(tensors: Mapping[str, Tensor], name: str, *shape: int) -> Tensor:
    """Return a tensor, or refuse it where it is missing or of another shape, which torch might broadcast."""
    if name not in tensors:
        raise DataError(f"the weights lack {name} (our name for it): they are not those of a whole ViT")
    if tensors[name].shape != shape:
        raise DataError(f"{name} (our name for it) has shape {tuple(tensors[name].shape)}, not {shape}")
    return tensors[name]


def _changed(
    found: Mapping[str, Tensor], arch: Architecture, grid: tuple[int, int], pixel_map: tuple[Tensor, Tensor]
) -> dict[str, Tensor]:
    """Return the tensors that our encoder has in another form."""
    weight, width = found["embedding.projection.weight"].double(), arch.encoder_projection
    scale, shift = pixel_map
    class_position, positions = _positions(found, grid)
    bias = _tensor(found, "embedding.projection.bias", width) + torch.einsum("dcpq,c->d", weight, shift)
    changed = {
        # Our patches are flattened row by row, the channels of a pixel together.
        "embedding.projection.weight": rearrange(weight * scale[:, None, None], "d c p1 p2 -> d (p1 p2 c)"),
        "embedding.projection.bias": bias,
        "embedding.position": positions,
    }
    if arch.class_token:
        changed["class_token"] = _tensor(found, "class_token", 1, 1, width).flatten().double() + class_position
    attention = arch.heads * arch.head_width
    for block in (f"blocks.{index}.attention." for index in range(arch.blocks)):
        fused = f"{block}qkv.weight" in found
        rows = 3 * attention if fused else attention
        parts = [f"{block}{part}" for part in (("qkv",) if fused else ("query", "key", "value"))]
        weights = [_tensor(found, f"{part}.weight", rows, width) for part in parts]
        zeros = {f"{part}.bias": weight.new_zeros(rows) for part in parts}  # some models have no bias here
        biases = [_tensor({**zeros, **found}, f"{part}.bias", rows) for part in parts]
        changed |= {f"{block}qkv.weight": torch.cat(weights), f"{block}qkv.bias": torch.cat(biases)}
    return changed


def _our_names(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors by our names, without heads; refuse what a plain ViT does not have."""
    found: dict[str, Tensor] = {}
    strange = []
    for name, tensor in published.items():
        plain = name.removeprefix("vit.")
        owner, _, last = plain.rpartition(".")
        block = _BLOCK.fullmatch(owner)
        if plain in _STEM:
            found[_STEM[plain]] = tensor
        elif owner in _STEM and last in ("weight", "bias"):
            found[f"{_STEM[owner]}.{last}"] = tensor
        elif block and block[2] in _PARTS and last in ("weight", "bias"):
            found[f"blocks.{block[1]}.{_PARTS[block[2]]}.{last}"] = tensor
        elif not plain.startswith(_HEADS):
            strange.append(name)
    if strange or "embedding.projection.weight" not in found:
        what = f"{strange[0]} is none of its tensors" if strange else "it has no projection of patches"
        raise UsageError(
            f"this is no plain Vision Transformer in the naming of transformers (ViTModel) or timm: {what}"
        )
    return found


def _check_fit(published: Published, arch: Architecture) -> None:
    """Refuse weights of another architecture, with the `--set` options that fit."""
    assumed = {*published.assumed, "norm_epsilon"}
    theirs = published.architecture
    wrong = {key: value for key, value in theirs.items() if key not in assumed and getattr(arch, key) != value}
    if arch.heads * arch.head_width != theirs["heads"] * theirs["head_width"]:
        wrong |= {key: theirs[key] for key in ("heads", "head_width")}
    if wrong:
        options = " ".join(f"--set model.{key}={option(value)}" for key, value in wrong.items())
        raise UsageError(f"the weights don't fit this recipe: {options} does (--preset vit-base is ViT-B/16)")


def _pixels(config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> PixelStats | None:
    """Return mean and deviation of a published model's pixels, as transformers or timm write them."""
    timm = config.get("pretrained_cfg")
    timm = timm if isinstance(timm, dict) else {}
    if preprocessor.get("do_normalize") is False:
        return PixelStats((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    mean = preprocessor.get("image_mean", timm.get("mean"))
    std = preprocessor.get("image_std", timm.get("std"))
    if mean is None or std is None:
        return None
    try:
        return PixelStats(tuple(map(float, mean)), tuple(map(float, std)))
    except (TypeError, ValueError) as error:
        raise DataError(f"its pixel mean {mean!r} and std {std!r} are not three numbers each") from error


def _pixel_map(ours: PixelStats, theirs: PixelStats) -> tuple[Tensor, Tensor]:
    """Return scale and shift, float64 (3,), from pixels with our normalization to theirs."""
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (ours.mean, ours.std))
    their_mean, their_std = (torch.tensor(values, dtype=torch.float64) for values in (theirs.mean, theirs.std))
    return std / their_std, (mean - their_mean) / their_std


def _positions(found: Mapping[str, Tensor], grid: tuple[int, int]) -> tuple[Tensor | float, Tensor]:
    """Return the position embeddings of the class token, (D,) or 0, and of the patches, (N, D), resampled to the grid."""
    width = found["embedding.projection.weight"].shape[0]
    table = found.get("embedding.position")
    if table is None or table.ndim != 3 or table.shape[0] != 1 or table.shape[2] != width:
        raise DataError(f"the weights have no learned positions of shape (1, N, {width})")
    table = table[0].double()
    first: Tensor | float = 0.0
    cells = grid[0] * grid[1]
    # A square number and one more, the class token's; with timm's `no_embed_class` only the square.
    for_class = _is_square(len(table) - 1) or len(table) == cells + 1
    if "class_token" in found and for_class and not _is_square(len(table)):
        first, table = table[0], table[1:]
    if _is_square(len(table)):
        side = math.isqrt(len(table))
        return first, resample_positions(table, (side, side), grid)
    if len(table) != cells:
        raise UsageError(
            f"the weights have positions for {len(table)} patches, which is no square: "
            "they fit images of the size they were trained on"
        )
    return first, table


def _is_square(count: int) -> bool:
    return math.isqrt(count) ** 2 == count
