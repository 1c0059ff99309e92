import dataclasses

import pytest
import torch

from vitseg.architecture import Architecture
from vitseg.errors import UsageError
from vitseg.model.encoder import VisionTransformer

ARCH = Architecture(
    patch_size=2, spatial_embedding=4, encoder_projection=12, blocks=2, heads=2, head_width=4,
    mlp_units=(16, 24),
)  # fmt: skip


def test_every_patch_becomes_a_token_as_wide_as_the_last_block():
    assert VisionTransformer(ARCH, (2, 3))(torch.rand(3, 6, 12), (2, 3)).shape == (3, 6, 24)


def test_blocks_after_the_first_work_at_the_width_of_the_mlp():
    encoder = VisionTransformer(ARCH, grid=(2, 3))
    assert encoder.blocks[0].attention_norm.normalized_shape == (16,)  # 12 + 4
    assert encoder.blocks[1].attention_norm.normalized_shape == (24,)


def test_position_matters():
    torch.manual_seed(0)
    encoder = VisionTransformer(ARCH, grid=(2, 3))
    patches = torch.rand(1, 6, 12)
    order = torch.tensor([5, 4, 3, 2, 1, 0])
    moved = encoder(patches[:, order], (2, 3))[:, order]  # without positions, moving patches would move tokens
    assert not torch.allclose(encoder(patches, (2, 3)), moved, atol=1e-4)
    torch.nn.init.zeros_(encoder.embedding.position)
    assert torch.allclose(encoder(patches, (2, 3)), encoder(patches[:, order], (2, 3))[:, order], atol=1e-5)


def test_a_class_token_comes_first_and_depends_on_the_image():
    torch.manual_seed(0)
    encoder = VisionTransformer(dataclasses.replace(ARCH, class_token=True), (2, 3))
    patches = torch.rand(2, 6, 12)
    tokens = encoder(patches, (2, 3))
    assert tokens.shape == (2, 7, 24)
    assert not torch.allclose(tokens[0, 0], tokens[1, 0], atol=1e-4)


@pytest.mark.parametrize("class_token", [False, True])
def test_registers_come_after_the_class_token_and_before_the_patches(class_token):
    torch.manual_seed(0)
    encoder = VisionTransformer(dataclasses.replace(ARCH, class_token=class_token, registers=3), (2, 3))
    patches = torch.rand(2, 6, 12)
    assert encoder(patches, (2, 3)).shape == (2, class_token + 3 + 6, 24)
    before = encoder.embedding(patches, (2, 3))
    given = []
    encoder.blocks[0].register_forward_pre_hook(lambda _module, inputs: given.append(inputs[0]))
    encoder(patches, (2, 3))
    [first] = given
    assert torch.equal(first[:, -6:], before)
    assert torch.equal(first[:, -9:-6], encoder.registers.expand(2, -1, -1))
    if class_token:
        assert torch.equal(first[:, 0], encoder.class_token.expand(2, -1))


def test_options_that_are_not_asked_for_change_nothing():
    names = VisionTransformer(ARCH, (2, 3)).state_dict().keys()
    assert not [name for name in names if "register" in name or "scale" in name]
    both = dataclasses.replace(ARCH, position="rotary", registers=1)
    assert VisionTransformer(both, (2, 3)).state_dict().keys() ^ names == {"embedding.position", "registers"}


def test_tokens_are_normalized_before_the_first_block_where_it_is_asked_for():
    torch.manual_seed(0)
    encoder = VisionTransformer(dataclasses.replace(ARCH, pre_norm=True, registers=1), (2, 3))
    torch.nn.init.uniform_(encoder.pre_norm.weight)
    given = []
    encoder.blocks[0].register_forward_pre_hook(lambda _module, inputs: given.append(inputs[0]))
    patches = torch.rand(2, 6, 12)
    encoder(patches, (2, 3))
    tokens = torch.cat((encoder.registers.expand(2, -1, -1), encoder.embedding(patches, (2, 3))), dim=1)
    assert torch.allclose(given[0], encoder.pre_norm(tokens))
    assert not torch.allclose(given[0], tokens, atol=0.1)


def test_positions_are_interpolated_on_another_grid():
    torch.manual_seed(0)
    encoder = VisionTransformer(ARCH, (2, 3))
    assert encoder(torch.rand(1, 20, 12), (4, 5)).shape == (1, 20, 24)
    with torch.no_grad():
        encoder.embedding.position.copy_(torch.arange(6.0)[:, None].expand(6, 4) // 3)  # what differs is the row
    tokens = encoder.embedding(torch.zeros(1, 24, 12), (4, 6))[0, :, 12:].reshape(4, 6, 4)
    assert torch.allclose(tokens, tokens[:, :1].expand(4, 6, 4), atol=1e-6)
    assert (tokens.diff(dim=0) > 0.05).all()


def test_without_normalization_there_is_none():
    encoder = VisionTransformer(dataclasses.replace(ARCH, normalization="none"), (2, 3))
    assert not [module for module in encoder.modules() if isinstance(module, torch.nn.LayerNorm)]


def test_deeper_blocks_are_left_out_more_often():
    encoder = VisionTransformer(dataclasses.replace(ARCH, blocks=3, stochastic_depth=0.4), (2, 3))
    assert [block.mlp_branch.drop_path for block in encoder.blocks] == pytest.approx([0.0, 0.2, 0.4])


@pytest.mark.parametrize(
    ("setting", "learning"),
    [("trained", {"embedding", "class_token", "registers", "blocks.0", "blocks.1", "blocks.2", "norm"}),
     ("frozen", set()), (1, {"blocks.2", "norm"}), (2, {"blocks.1", "blocks.2", "norm"})],
)  # fmt: skip
def test_only_the_parts_that_are_asked_for_learn(setting, learning):
    arch = dataclasses.replace(ARCH, blocks=3, class_token=True, registers=1, encoder=setting)
    encoder = VisionTransformer(arch, (2, 3))
    learns = [name for name, parameter in encoder.named_parameters() if parameter.requires_grad]
    assert {".".join(name.split(".")[: 2 if "blocks" in name else 1]) for name in learns} == learning
    tokens = encoder(torch.rand(1, 6, 12), (2, 3))
    assert tokens.requires_grad == bool(learning)
    if learning:
        tokens.sum().backward()
    assert {name for name, parameter in encoder.named_parameters() if parameter.grad is not None} == set(learns)


def test_what_does_not_learn_drops_nothing_in_training():
    arch = dataclasses.replace(ARCH, blocks=3, dropout=0.5, stochastic_depth=0.5)
    patches = torch.rand(1, 6, 12)
    frozen = VisionTransformer(dataclasses.replace(arch, encoder="frozen"), (2, 3))  # also before anybody says train()
    assert torch.equal(frozen(patches, (2, 3)), frozen(patches, (2, 3)))
    assert not frozen.eval().train().training
    last = VisionTransformer(dataclasses.replace(arch, encoder=1), (2, 3))
    assert [block.training for block in last.blocks] == [False, False, True]
    assert not torch.equal(last(patches, (2, 3)), last(patches, (2, 3)))
    assert not last.eval().blocks[2].training


@pytest.mark.parametrize(("depths", "taken"), [(1, [4]), (2, [2, 4]), (4, [1, 2, 3, 4])])
def test_tokens_of_several_depths_lie_side_by_side(depths: int, taken: list[int]) -> None:
    torch.manual_seed(0)
    arch = dataclasses.replace(ARCH, blocks=4, depths=depths, class_token=True)
    encoder = VisionTransformer(arch, (2, 3)).eval()
    left: list[torch.Tensor] = []
    for block in encoder.blocks:
        block.register_forward_hook(lambda _module, _inputs, output: left.append(output))
    tokens = encoder(torch.rand(2, 6, 12), (2, 3))
    assert tokens.shape == (2, 7, encoder.width)
    assert torch.equal(tokens, torch.cat([encoder.norm(left[depth - 1]) for depth in taken], dim=-1))


def test_there_are_no_more_depths_than_blocks() -> None:
    with pytest.raises(UsageError, match=r"model\.depths is at most model\.blocks"):
        dataclasses.replace(ARCH, depths=3)
