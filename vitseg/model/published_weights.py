"""Published weights of Vision Transformers as weights of our encoder, without a convolution.

It reads ViT, DeiT, MAE, DINOv2, DINOv3 and the vision towers of CLIP and SigLIP, in the naming of Hugging Face transformers
and of timm. Their patch embedding is a convolution whose stride is its kernel, that is, a linear layer on flattened patches;
and other pixel statistics differ from ours by a linear map. Both are folded into the projection, in float64, so the encoder
computes what the original computes.

Shapes: P side of a patch, N patches, D width of a token.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from vitseg.architecture import Architecture
from vitseg.errors import DataError, UsageError
from vitseg.model.encoder import VisionTransformer
from vitseg.model.patches import resample_positions
from vitseg.model.published_families import PixelStats, Stated, read_beside
from vitseg.model.published_names import PROJECTION, Named, check_shape, join_parts, translate
from vitseg.model.transfer import option

__all__ = ["PixelStats", "Published", "encoder_from_published", "read_published"]

_SIZES = {
    192: "Ti", 384: "S", 768: "B", 1024: "L", 1152: "So400m", 1280: "H", 1408: "g", 1536: "g", 1664: "G", 4096: "7B",
}  # fmt: skip
_SCALE = 1e-5  # of residual branches, as DINOv2 begins; the learned factors take its place


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
    """By our names; the projection of patches (D, 3, P, P) and the positions are as published."""
    assumed: frozenset[str] = frozenset()
    """Keys of `architecture`, and `pixels`, that nothing states: their values are those of most models of the family."""
    image_size: tuple[int, int] | None = None
    """(H, W) that the positions are for, where it is stated."""
    antialias: bool = False
    """Whether positions are smoothed where they are resampled to fewer, as transformers does for DINOv2 with registers."""
    license: str = ""
    """The family's, where it asks for more than to be named."""


def read_published(
    state: Mapping[str, Tensor], config: Mapping[str, Any], preprocessor: Mapping[str, Any]
) -> Published:
    """Read what a published encoder is out of its weights and the files beside them.

    Args:
        state: a state dict with the names of transformers or timm.
        config: content of `config.json`; empty where there is none.
        preprocessor: content of `preprocessor_config.json`; empty where there is none.

    Raises:
        UsageError: it is no Vision Transformer of a known family; the message names a tensor or key that is unknown.
        DataError: a tensor is missing or malformed, or the files beside the weights are those of others.
    """
    named = translate(state)
    stated = read_beside(state, named.tensors, timm=named.timm, config=config, preprocessor=preprocessor)
    tensors, gated = _joined(named)
    tensors |= _absent_biases(tensors, named.blocks, config)
    width, patch_size = tensors[PROJECTION].shape[0], tensors[PROJECTION].shape[2]
    hidden, attention = (tensors[f"blocks.0.{part}.weight"].shape[1] for part in ("mlp.layers.1", "attention.output"))
    if (pre_norm := "pre_norm.weight" in tensors) and "embedding.projection.bias" not in tensors:
        tensors["embedding.projection.bias"] = tensors[PROJECTION].new_zeros(width)
    (heads, no_heads), (epsilon, no_epsilon) = stated.heads(attention), stated.epsilon()
    (activation, no_activation), (pixels, no_pixels) = stated.activation(gated), stated.pixels()
    assumed = {"heads": no_heads, "head_width": no_heads, "norm_epsilon": no_epsilon, "activation": no_activation}
    registers = tensors["registers"].numel() // width if "registers" in tensors else 0
    architecture = {
        "patch_size": patch_size, "pixels": "fixed", "position": "add" if "embedding.position" in tensors else "rotary",
        "encoder_projection": width, "blocks": named.blocks, "heads": heads, "head_width": attention // heads,
        "mlp_units": (hidden, width), "activation": activation, "skip_projection": False, "normalization": "layer",
        "norm_epsilon": epsilon, "pre_norm": pre_norm, "class_token": "class_token" in tensors, "registers": registers,
        "layer_scale": _SCALE if "blocks.0.attention_branch.scale" in tensors else 0.0,
    }  # fmt: skip
    stated.check({"hidden_size": width, "num_hidden_layers": named.blocks, "patch_size": patch_size})
    stated.check({"intermediate_size": hidden, "use_swiglu_ffn": gated, "use_gated_mlp": gated})
    if architecture["position"] == "rotary":
        _check_rotary(stated, architecture)
        stated.check({"num_register_tokens": registers})
    smooth = stated.family.name == "DINOv2" and registers > 0
    family = stated.architecture or f"{stated.family.name} ViT-{_SIZES.get(width, width)}/{patch_size}"
    return Published(
        architecture, pixels, family.replace("ViT ViT", "ViT"), tensors,
        frozenset(key for key, value in {**assumed, "pixels": no_pixels}.items() if value), stated.image_size(), smooth,
        stated.family.license,
    )  # fmt: skip


def encoder_from_published(
    published: Published, arch: Architecture, grid: tuple[int, int], ours: PixelStats
) -> dict[str, Tensor]:
    """Convert published weights to those of `VisionTransformer`.

    Args:
        published: what `read_published` returned.
        arch: of the encoder; where its patches are of another size, the kernel is resized.
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
    ready = {**published.tensors, **_changed(published, arch, grid, _pixel_map(ours, published.pixels))}
    weights = {name: check_shape(ready, name, *tensor.shape) for name, tensor in expected.items()}
    if surplus := sorted(ready.keys() - expected.keys()):
        raise DataError(f"{surplus[0]} (our name for it) has no place in this encoder")
    if broken := next((name for name, tensor in weights.items() if not tensor.isfinite().all()), None):
        raise DataError(f"{broken} holds values that are not finite: the file is damaged")
    return {name: tensor.to(torch.float32).contiguous() for name, tensor in weights.items()}


def resize_kernel(kernel: Tensor, size: int) -> Tensor:
    """Return a kernel (D, C, P, P) for patches of another side, so that a patch scaled to it has the same product as before.

    For larger patches that is a pseudo-inverse (FlexiViT, https://arxiv.org/abs/2212.08013): exact for patches that are
    enlarged. For smaller ones, exact the other way round: their product is that of the enlarged patch with the old kernel.
    (A pseudo-inverse would lose there what a smaller patch can't hold of the kernel.)
    """
    old = kernel.shape[-1]
    if old == size:
        return kernel
    if size < old:
        return (kernel.double().flatten(2) @ _enlarging(size, old)).unflatten(2, (size, size))
    return (kernel.double().flatten(2) @ torch.linalg.pinv(_enlarging(old, size))).unflatten(2, (size, size))


def _enlarging(small: int, large: int) -> Tensor:
    """Return the matrix, float64 (large², small²), that enlarges a patch bicubically."""
    pixels = torch.eye(small**2, dtype=torch.float64).view(small**2, 1, small, small)
    return F.interpolate(pixels, size=(large, large), mode="bicubic", antialias=True).flatten(1).T


def _joined(named: Named) -> tuple[dict[str, Tensor], bool]:
    """Return the tensors with parts joined as ours are, and whether the MLPs have a gate, after checks of what tells shapes."""
    projection = named.tensors[PROJECTION]
    if projection.ndim == 2:
        raise UsageError(
            "its projection of patches is a matrix, as SigLIP 2's for any aspect (NaFlex): choose a fixed size"
        )
    if projection.ndim != 4 or projection.shape[1] != 3 or projection.shape[2] != projection.shape[3]:
        raise DataError(f"the projection of patches has shape {tuple(projection.shape)}, not (D, 3, P, P)")
    parts = [
        named.tensors.get(f"blocks.0.{part}.weight") for part in ("mlp.layers.0", "mlp.layers.1", "attention.output")
    ]
    if any(part is None or part.ndim != 2 for part in parts):
        raise DataError("the weights have no Transformer blocks")
    first, second, output = (part for part in parts if part is not None)
    gated = "blocks.0.mlp.gate.weight" in named.tensors or first.shape[0] == 2 * second.shape[1]
    return join_parts(named, projection.shape[0], output.shape[1]), gated


def _absent_biases(tensors: Mapping[str, Tensor], blocks: int, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return biases of 0 for layers that have none, where the configuration says so, as DINOv3's may."""
    layers = {"proj_bias": ("attention.output",), "mlp_bias": ("mlp.layers.0", "mlp.layers.1")}
    without = [layer for key, found in layers.items() if config.get(key) is False for layer in found]
    names = [f"blocks.{index}.{layer}" for index in range(blocks) for layer in without]
    return {
        f"{name}.bias": tensors[f"{name}.weight"].new_zeros(len(tensors[f"{name}.weight"]))
        for name in names
        if f"{name}.weight" in tensors and f"{name}.bias" not in tensors
    }


def _check_rotary(stated: Stated, architecture: Mapping[str, Any]) -> None:
    """Refuse what has no positions but is not DINOv3, whose convention of rotary positions is ours."""
    theirs = stated.config.get("rope_theta", 100.0)
    if theirs != 100:
        raise UsageError(f"config.json says rope_theta = {theirs!r}; this encoder's rotary positions have 100")
    named_so = "dinov3" in stated.architecture or not stated.architecture
    if stated.family.name != "DINOv3" or not named_so or not architecture["layer_scale"]:
        raise DataError("the weights have no learned positions")


def _changed(
    published: Published, arch: Architecture, grid: tuple[int, int], pixel_map: tuple[Tensor, Tensor]
) -> dict[str, Tensor]:
    """Return the tensors that our encoder has in another form."""
    found, width = published.tensors, arch.encoder_projection
    scale, shift = pixel_map
    weight = resize_kernel(found[PROJECTION].double(), arch.patch_size)
    bias = check_shape(found, "embedding.projection.bias", width) + torch.einsum("dcpq,c->d", weight, shift)
    changed = {
        # Our patches are flattened row by row, the channels of a pixel together.
        PROJECTION: rearrange(weight * scale[:, None, None], "d c p1 p2 -> d (p1 p2 c)"),
        "embedding.projection.bias": bias,
    }
    if arch.class_token:
        token = found["class_token"]
        changed["class_token"] = check_shape({"class_token": token.flatten()}, "class_token", width).double()
    if arch.registers:
        changed["registers"] = found["registers"].reshape(arch.registers, width).double()
    if arch.position == "add":
        own, changed["embedding.position"] = _positions(published, grid, (arch.class_token, arch.registers))
        if arch.class_token and len(own):
            changed["class_token"] = changed["class_token"] + own[0]
        if len(own) > 1:
            changed["registers"] = changed["registers"] + own[1:]
    return changed


def _check_fit(published: Published, arch: Architecture) -> None:
    """Refuse weights of another architecture, with the `--set` options that fit."""
    theirs = {key: value for key, value in published.architecture.items() if key not in ("patch_size", "norm_epsilon")}
    wrong = {
        key: value for key, value in theirs.items() if getattr(arch, key) != value and key not in published.assumed
    }
    if (arch.layer_scale > 0) == (theirs["layer_scale"] > 0):
        wrong.pop("layer_scale", None)
    if arch.heads * arch.head_width != theirs["heads"] * theirs["head_width"]:
        wrong |= {key: theirs[key] for key in ("heads", "head_width")}
    if wrong:
        options = " ".join(f"--set model.{key}={option(value)}" for key, value in wrong.items())
        raise UsageError(f"the weights don't fit this recipe: {options} does (--preset vit-base is ViT-B/16)")


def _pixel_map(ours: PixelStats, theirs: PixelStats) -> tuple[Tensor, Tensor]:
    """Return scale and shift, float64 (3,), from pixels with our normalization to theirs."""
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (ours.mean, ours.std))
    their_mean, their_std = (torch.tensor(values, dtype=torch.float64) for values in (theirs.mean, theirs.std))
    return std / their_std, (mean - their_mean) / their_std


def _positions(published: Published, grid: tuple[int, int], tokens: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return position embeddings (k, D) of the first k tokens without a patch, and of the patches, (N, D), for a grid.

    `tokens` are the numbers of class tokens and registers. Which of them have a position is seen by what is left for the
    patches: the grid of the stated image size, or a square, or else as many as ours.
    """
    width, patch_size = (published.architecture[key] for key in ("encoder_projection", "patch_size"))
    table = published.tensors["embedding.position"]
    if not 2 <= table.ndim <= 3 or table.shape[-1] != width or table.numel() != table.shape[-2] * width:
        raise DataError(f"the weights have no learned positions of shape (1, N, {width})")
    table = table.reshape(-1, width).double()
    counts = (tokens[0], sum(tokens), 0)
    stated = tuple(side // patch_size for side in published.image_size or ())
    for count in counts:
        if len(table) - count == math.prod(stated) and len(stated) == 2:
            return table[:count], resample_positions(table[count:], stated, grid, antialias=published.antialias)
    for count in counts:
        if (side := math.isqrt(max(0, len(table) - count))) ** 2 == len(table) - count and side:
            return table[:count], resample_positions(table[count:], (side, side), grid, antialias=published.antialias)
    for count in counts:
        if len(table) - count == grid[0] * grid[1]:
            return table[:count], table[count:]
    raise UsageError(
        f"the weights have positions for {len(table)} patches, which is no square: "
        "they fit images of the size they were trained on"
    )
