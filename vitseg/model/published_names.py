"""The names of published encoders' tensors, translated to ours.

They are those of Hugging Face transformers (as files on the hub have them, and as transformers 5 has them in memory) and of
timm. Queries, keys and values, or a gate and its values, that are tensors of their own become one, as ours are.

Shapes: A width of all heads together, D width of a token, F width inside an MLP.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vitseg.errors import DataError, UsageError

PROJECTION = "embedding.projection.weight"
_PREFIXES = ("vit.", "deit.", "dinov2.", "dinov2_with_registers.", "dinov3_vit.", "vision_model.", "timm_model.")
# Tensors without a module of their own.
_TENSORS = {
    "embeddings.cls_token": "class_token",
    "embeddings.class_embedding": "class_token",
    "cls_token": "class_token",
    "embeddings.register_tokens": "registers",
    "embeddings.distillation_token": "registers",  # of DeiT: a second token without a patch
    "reg_token": "registers",
    "dist_token": "registers",
    "embeddings.position_embeddings": "embedding.position",
    "embeddings.position_embedding.weight": "embedding.position",
    "pos_embed": "embedding.position",
}
# Modules with a weight and a bias.
_MODULES = {
    "embeddings.patch_embeddings.projection": "embedding.projection",
    "embeddings.patch_embeddings": "embedding.projection",
    "embeddings.patch_embedding": "embedding.projection",
    "patch_embed.proj": "embedding.projection",
    "pre_layrnorm": "pre_norm",
    "norm_pre": "pre_norm",
    "layernorm": "norm",
    "post_layernorm": "norm",
    "norm": "norm",
}
_BLOCK = re.compile(r"(?:encoder\.layers?|model\.layer|layers?|blocks)\.(\d+)\.(.+)")
_BLOCK_TENSORS = {
    "layer_scale1.lambda1": "attention_branch.scale",
    "ls1.gamma": "attention_branch.scale",
    "gamma_1": "attention_branch.scale",
    "layer_scale2.lambda1": "mlp_branch.scale",
    "ls2.gamma": "mlp_branch.scale",
    "gamma_2": "mlp_branch.scale",
    "attn.q_bias": "attention.query.bias",
    "attn.v_bias": "attention.value.bias",
}
_BLOCK_MODULES = {
    "layernorm_before": "attention_norm",
    "layer_norm1": "attention_norm",
    "norm1": "attention_norm",
    "attention.attention.query": "attention.query",
    "attention.attention.key": "attention.key",
    "attention.attention.value": "attention.value",
    **{f"{owner}.{theirs}_proj": f"attention.{ours}" for owner in ("attention", "self_attn") for theirs, ours in (
        ("q", "query"), ("k", "key"), ("v", "value"))},
    "attn.qkv": "attention.qkv",
    "attention.output.dense": "attention.output",
    "attention.o_proj": "attention.output",
    "self_attn.out_proj": "attention.output",
    "attn.proj": "attention.output",
    "layernorm_after": "mlp_norm",
    "layer_norm2": "mlp_norm",
    "norm2": "mlp_norm",
    "intermediate.dense": "mlp.layers.0",
    "mlp.fc1": "mlp.layers.0",
    "mlp.up_proj": "mlp.layers.0",
    "mlp.fc1_x": "mlp.layers.0",
    "mlp.weights_in": "mlp.layers.0",  # a gate and its values in one
    "mlp.gate_proj": "mlp.gate",
    "mlp.fc1_g": "mlp.gate",
    "output.dense": "mlp.layers.1",
    "mlp.fc2": "mlp.layers.1",
    "mlp.down_proj": "mlp.layers.1",
    "mlp.weights_out": "mlp.layers.1",
}  # fmt: skip
# What comes after the last norm (classifiers, poolers, decoders of masked pretraining), text towers, and the token that
# stands for hidden patches. They are left out.
_LEFT_OUT = (
    "pooler.", "classifier.", "cls_classifier.", "distillation_classifier.", "head.", "head_dist.", "decoder.", "pre_logits.",
    "attn_pool.", "text_model.", "text_projection.", "visual_projection.", "logit_scale", "logit_bias", "embeddings.mask_token",
    "embeddings.position_ids",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Named:
    """Published tensors by our names; `timm`: whether they had timm's."""

    tensors: dict[str, Tensor]
    timm: bool

    @property
    def blocks(self) -> int:
        """Number of blocks, by the highest index."""
        return 1 + max((int(name.split(".")[1]) for name in self.tensors if name.startswith("blocks.")), default=-1)


def translate(published: Mapping[str, Tensor]) -> Named:
    """Return the tensors by our names, without those that are left out.

    Raises:
        UsageError: a tensor is unknown, or no projection of patches is there.
    """
    found: dict[str, Tensor] = {}
    strange = []
    for name, tensor in published.items():
        plain = name.removeprefix(next((prefix for prefix in _PREFIXES if name.startswith(prefix)), ""))
        ours = _our_name(plain)
        if ours is None and plain.startswith(_LEFT_OUT):
            continue
        if ours is None or ours in found:
            strange.append(name)
        else:
            found[ours] = tensor
    if strange or PROJECTION not in found:
        what = f"{strange[0]} is none of its tensors" if strange else "it has no projection of patches"
        raise UsageError(
            f"this is no Vision Transformer of a known family in the naming of transformers or timm: {what}"
        )
    return Named(found, "patch_embed.proj.weight" in {name.removeprefix("timm_model.") for name in published})


def _our_name(plain: str) -> str | None:
    if plain in _TENSORS:
        return _TENSORS[plain]
    owner, _, last = plain.rpartition(".")
    if owner in _MODULES and last in ("weight", "bias"):
        return f"{_MODULES[owner]}.{last}"
    if not (block := _BLOCK.fullmatch(plain)):
        return None
    part = _BLOCK_TENSORS.get(block[2])
    owner, _, last = block[2].rpartition(".")
    if owner in _BLOCK_MODULES and last in ("weight", "bias"):
        part = f"{_BLOCK_MODULES[owner]}.{last}"
    return part and f"blocks.{block[1]}.{part}"


def join_parts(named: Named, width: int, attention: int) -> dict[str, Tensor]:
    """Return the tensors with one matrix for queries, keys and values, (3·A, D), and one for a gate and its values, (2·F, D).

    Queries, keys and values without a bias get one of 0.

    Raises:
        DataError: a part is missing or of another shape.
    """
    joined = dict(named.tensors)
    for block in (f"blocks.{index}." for index in range(named.blocks)):
        whole, parts = f"{block}attention.qkv", [f"{block}attention.{part}" for part in ("query", "key", "value")]
        for kind, columns in (("weight", (width,)), ("bias", ())):
            if f"{whole}.{kind}" not in joined:
                # Some have no bias at all, some none of keys.
                zero = {f"{name}.bias": joined[f"{whole}.weight"].new_zeros(attention) for name in parts if not columns}
                rows = [check_shape({**zero, **joined}, f"{name}.{kind}", attention, *columns) for name in parts]
                joined[f"{whole}.{kind}"] = torch.cat(rows)
                for name in parts:
                    joined.pop(f"{name}.{kind}", None)
            check_shape(joined, f"{whole}.{kind}", 3 * attention, *columns)
            if (gate := joined.pop(f"{block}mlp.gate.{kind}", None)) is not None:
                values = check_shape(joined, f"{block}mlp.layers.0.{kind}", *gate.shape)
                joined[f"{block}mlp.layers.0.{kind}"] = torch.cat((gate, values))
    return joined


def check_shape(tensors: Mapping[str, Tensor], name: str, *shape: int) -> Tensor:
    """Return a tensor, or refuse it where it is missing or of another shape, which torch might broadcast."""
    if name not in tensors:
        raise DataError(f"the weights lack {name} (our name for it): they are not those of a whole ViT")
    if tensors[name].shape != shape:
        raise DataError(f"{name} (our name for it) has shape {tuple(tensors[name].shape)}, not {shape}")
    return tensors[name]
