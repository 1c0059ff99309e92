"""Families of published encoders: what a file does not say, and what the files beside it do.

`config.json` and `preprocessor_config.json` are those of Hugging Face transformers, or timm's own `config.json`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vitseg.errors import DataError, UsageError


@dataclass(frozen=True)
class PixelStats:
    """Normalization of pixels by channel, in the 0–1 scale: (value - mean) / std. The defaults are the original ViT's."""

    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        """Check the ranges."""
        if len(self.mean) != 3 or len(self.std) != 3 or not all(0 < std < math.inf for std in self.std):
            raise DataError(f"pixel mean {self.mean} and std {self.std} are not three numbers each, std above 0")


_IMAGENET = PixelStats((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = PixelStats((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@dataclass(frozen=True)
class Family:
    """What all published encoders of a family have, unless the files beside one say otherwise."""

    name: str
    epsilon: float
    """Of LayerNorms, in transformers."""
    pixels: PixelStats = _IMAGENET
    activation: str = "gelu"
    heads: int = 12
    """Where a `config.json` of transformers leaves them out."""
    license: str = ""
    """Where it asks for more than to be named."""


_DINOV3_LICENSE = "DINOv3 License (https://ai.meta.com/resources/models-and-libraries/dinov3-license/)"
_VIT = Family("ViT", 1e-12, PixelStats())
_DINOV2 = Family("DINOv2", 1e-6)
_DINOV3 = Family("DINOv3", 1e-5, heads=6, license=_DINOV3_LICENSE)
_CLIP_VISION = Family("CLIP", 1e-5, _CLIP, "quick_gelu")
_SIGLIP = Family("SigLIP", 1e-6, PixelStats(), "gelu_pytorch_tanh")
_MODEL_TYPES = {
    "vit": _VIT,
    "deit": Family("DeiT", 1e-12),
    "vit_mae": Family("MAE", 1e-12),
    "dinov2": _DINOV2,
    "dinov2_with_registers": _DINOV2,
    "dinov3_vit": _DINOV3,
    "clip": _CLIP_VISION,
    "clip_vision_model": _CLIP_VISION,
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
}
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "quickgelu": "quick_gelu",
    "silu": "swiglu",  # met with a gate alone
}
# Widths whose heads are not 64 wide, and how many heads they have; those of one family come first.
_HEADS = {("DINOv3", 1280): 20, ("SigLIP", 1536): 16, 1152: 16, 1280: 16, 1408: 16, 1664: 16, 4096: 32}
# timm's of these names compute something else with tensors of the same names: rotations or norms elsewhere.
_OTHERS_OF_TIMM = re.compile(r"_rope|_pe_|_rpn")


@dataclass(frozen=True)
class Stated:
    """What the files beside the weights say, and what takes its place where they don't."""

    family: Family
    timm: bool
    config: Mapping[str, Any]
    """Of the vision tower, where there is another one."""
    preprocessor: Mapping[str, Any]

    @property
    def architecture(self) -> str:
        """Name of a timm model; empty where it is not stated."""
        return str(self.config.get("architecture") or "") if self.timm else ""

    @property
    def known(self) -> bool:
        """Whether a library's own values take the place of what is left out, so that nothing is assumed."""
        return bool(self.architecture) or self.config.get("model_type") in _MODEL_TYPES

    def heads(self, attention: int) -> tuple[int, bool]:
        """Return the number of attention heads, which are `attention` wide together, and whether it is assumed."""
        stated = _object(self.config, "model_args").get("num_heads") if self.timm else None
        stated = self.config.get("num_attention_heads", stated)
        if stated is None and self.known and not self.timm:
            stated = self.family.heads
        if stated is not None:
            if not isinstance(stated, int) or stated < 1 or attention % stated:
                raise DataError(f"config.json says {stated!r} attention heads, which {attention} is no multiple of")
            return stated, False
        usual = _HEADS.get((self.family.name, attention), _HEADS.get(attention, max(1, attention // 64)))
        return next(count for count in range(usual, 0, -1) if attention % count == 0), True

    def epsilon(self) -> tuple[float, bool]:
        """Return what LayerNorms add to the variance, and whether it is assumed."""
        stated = self.config.get("layer_norm_eps")
        if stated is None:
            # timm's plain ViT has another one than that of transformers.
            return max(self.family.epsilon, 1e-6) if self.timm else self.family.epsilon, not self.known
        if not isinstance(stated, int | float) or not 0 < stated < 1:
            raise DataError(f"config.json says layer_norm_eps = {stated!r}, which is not between 0 and 1")
        return float(stated), False

    def activation(self, gated: bool) -> tuple[str, bool]:
        """Return the activation of MLPs, with a gate or without one, and whether it is assumed."""
        stated = self.config.get("hidden_act", _object(self.config, "model_args").get("act_layer"))
        if gated and (self.timm or self.family is not _DINOV3 or not self.known):
            return "swiglu", False
        known = stated is not None or self.known
        if stated is None and self.timm and self.family is _CLIP_VISION:
            stated = "quick_gelu" if "quickgelu" in self.architecture else "gelu"
        stated = self.family.activation if stated is None else stated
        ours = _ACTIVATIONS.get(stated) if isinstance(stated, str) else None
        if ours is None or (ours == "swiglu") != gated:
            what = f"its activation is {stated!r}{' with a gate' if gated else ''}"
            raise UsageError(f"{what}, which this encoder does not have: choose another one")
        return ours, not known

    def pixels(self) -> tuple[PixelStats, bool]:
        """Return mean and deviation of its pixels, and whether they are assumed."""
        timm = _object(self.config, "pretrained_cfg")
        factor = self.preprocessor.get("rescale_factor")
        if self.preprocessor.get("do_rescale") is False or (factor and abs(factor * 255 - 1) > 1e-3):
            raise UsageError("preprocessor_config.json does not scale pixels by 1/255, as this encoder does")
        if self.preprocessor.get("do_normalize") is False:
            return PixelStats((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), False
        mean = self.preprocessor.get("image_mean", timm.get("mean"))
        std = self.preprocessor.get("image_std", timm.get("std"))
        if mean is None or std is None:
            return self.family.pixels, True
        try:
            return PixelStats(tuple(map(float, mean)), tuple(map(float, std))), False
        except (TypeError, ValueError) as error:
            raise DataError(f"its pixel mean {mean!r} and std {std!r} are not three numbers each") from error

    def image_size(self) -> tuple[int, int] | None:
        """Return the (H, W) of the images that its positions are for, where it is stated."""
        size = self.config.get("image_size")
        if self.timm:
            size = _object(self.config, "pretrained_cfg").get("input_size", [0])[1:]
            size = _object(self.config, "model_args").get("img_size", size)
        match size:
            case int(side):
                return side, side
            case [int(height), int(width)]:
                return height, width
        return None

    def check(self, have: Mapping[str, Any]) -> None:
        """Refuse a `config.json` that says other numbers than the weights `have`: they are not all there, or not its own."""
        for key, value in have.items():
            stated = self.config.get(key, value)
            if isinstance(stated, int) and stated != value:
                raise DataError(f"config.json says {key} = {stated}, but the weights have {value}: are they all there?")


def read_beside(
    names: Mapping[str, Any], ours: Mapping[str, Any], *, timm: bool, config: Mapping[str, Any],
    preprocessor: Mapping[str, Any],
) -> Stated:  # fmt: skip
    """Return what the files beside weights state, whose `names` and `ours` say the family where these don't.

    Raises:
        UsageError: they state a kind of model that this encoder is not.
    """
    vision = config.get("vision_config")
    own = vision if isinstance(vision, dict) else config
    kind = own.get("model_type", config.get("model_type"))
    if kind is not None and kind not in _MODEL_TYPES and not timm:
        raise UsageError(f"config.json says model_type = {kind!r}; known are {', '.join(_MODEL_TYPES)}")
    if timm and _OTHERS_OF_TIMM.search(name := str(config.get("architecture") or "")):
        raise UsageError(f"config.json says architecture = {name!r}, which computes something else than this encoder")
    family = _VIT
    if kind in _MODEL_TYPES:
        family = _MODEL_TYPES[kind]
        own = {**own, "model_type": kind}
    elif "pre_norm.weight" in ours:
        family = _CLIP_VISION
    elif "embedding.position" not in ours:
        family = _DINOV3
    elif "class_token" not in ours and any("attn_pool." in name or "post_layernorm." in name for name in names):
        family = _SIGLIP
    elif "blocks.0.attention_branch.scale" in ours:
        family = _DINOV2
    return Stated(family, timm, own, preprocessor)


def _object(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = values.get(key)
    return found if isinstance(found, dict) else {}
