"""Names of published tensors: where each belongs with us, what is left out, and what is refused."""

import pytest
import torch

from vitseg.errors import DataError, UsageError
from vitseg.model.published_names import join_parts, translate

KERNEL = torch.ones(4, 3, 2, 2)
HUB, TIMM = "embeddings.patch_embeddings.projection.weight", "patch_embed.proj.weight"


def part(value: float, *shape: int) -> torch.Tensor:
    return torch.full(shape, value)


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("vit.encoder.layer.11.attention.output.dense.bias", "blocks.11.attention.output.bias"),
        ("dinov2.encoder.layer.3.layer_scale2.lambda1", "blocks.3.mlp_branch.scale"),
        ("layer.0.mlp.down_proj.weight", "blocks.0.mlp.layers.1.weight"),
        ("model.layer.0.norm2.bias", "blocks.0.mlp_norm.bias"),
        ("vision_model.encoder.layers.1.self_attn.out_proj.weight", "blocks.1.attention.output.weight"),
        ("vision_model.pre_layrnorm.bias", "pre_norm.bias"),
        ("deit.embeddings.distillation_token", "registers"),
        ("timm_model.blocks.2.ls1.gamma", "blocks.2.attention_branch.scale"),
    ],
)
def test_each_tensor_has_its_place(name: str, ours: str) -> None:
    named = translate({name: part(1, 4), HUB: KERNEL})
    assert named.tensors.keys() == {ours, "embedding.projection.weight"}
    assert not named.timm


def test_heads_and_text_towers_are_left_out() -> None:
    others = (
        "text_model.encoder.layers.0.mlp.fc1.weight",
        "logit_scale",
        "vision_model.head.probe",
        "attn_pool.kv.weight",
    )
    named = translate({TIMM: KERNEL, "vit.pooler.dense.bias": part(0, 4), **{name: part(0, 1) for name in others}})
    assert named.tensors.keys() == {"embedding.projection.weight"}
    assert named.timm


@pytest.mark.parametrize(
    "name", ["blocks.0.attn.q_norm.weight", "norm.running_mean", "encoder.embed.weight", "layernorm.bias"]
)
def test_what_is_unknown_or_there_twice_is_named(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} is none of its tensors"):
        translate({TIMM: KERNEL, "norm.bias": part(0, 4), name: part(0, 4)})


def test_without_a_projection_of_patches_it_is_none() -> None:
    with pytest.raises(UsageError, match="no projection of patches"):
        translate({"norm.bias": part(0, 4)})


def test_queries_come_before_keys_and_values_and_a_gate_before_what_it_multiplies() -> None:
    attention = {f"layers.0.attention.{name}_proj.weight": part(value, 2, 4) for value, name in enumerate("qkv")}
    mlp = {"layers.0.mlp.up_proj.weight": part(5, 3, 4), "layers.0.mlp.gate_proj.weight": part(4, 3, 4)}
    biases = {"layers.0.attention.q_proj.bias": part(1, 2), "layers.0.attention.v_proj.bias": part(3, 2)}
    joined = join_parts(translate({HUB: KERNEL, **attention, **mlp, **biases}), width=4, attention=2)
    assert joined["blocks.0.attention.qkv.weight"][:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert joined["blocks.0.attention.qkv.bias"].tolist() == [1, 1, 0, 0, 3, 3]  # keys have none
    assert joined["blocks.0.mlp.layers.0.weight"][:, 0].tolist() == [4, 4, 4, 5, 5, 5]
    assert len(joined) == 4


def test_a_gate_of_another_shape_is_refused() -> None:
    attention = {"blocks.0.attn.qkv.weight": part(0, 6, 4)}
    mlp = {"blocks.0.mlp.fc1_x.weight": part(5, 3, 4), "blocks.0.mlp.fc1_g.weight": part(4, 2, 4)}
    with pytest.raises(DataError, match=r"mlp.layers.0.weight .* has shape \(3, 4\), not \(2, 4\)"):
        join_parts(translate({TIMM: KERNEL, **attention, **mlp}), width=4, attention=2)
