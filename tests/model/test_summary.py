import pytest
import torch
from torch import nn

from vitseg.config import load_recipe, presets
from vitseg.errors import UsageError
from vitseg.model.summary import count_convolutions, summarize
from vitseg.recipe import Architecture


def block(d: int, inner: int, *units: int) -> list[int]:
    """Parameters of a block that takes tokens of width d: norms are 2d, a linear a -> b is ab + b."""
    first, last = units
    return [
        2 * d,  # norm
        d * 3 * inner + 3 * inner,  # queries, keys and values of all heads
        inner * d + d,  # output
        2 * d,  # norm
        d * first + first,
        first * last + last,
    ]


# All at 256 × 256 pixels and 19 classes.
BY_HAND = {
    "tiny": [
        (8 * 8 * 3) * 120 + 120,  # projection of a patch
        32 * 32 * 8,  # an embedding of 8 for each of 32 · 32 positions
        *(4 * block(128, 4 * 32, 256, 128)),
        2 * 128,
        128 * 64 + 64,  # features
        (8 * 8 * 3) * 64 + 64,  # projection of the reintroduced patch
        2 * (64 + 64),
        (64 + 64) * 256 + 256,
        256 * 256 + 256,
        256 * (8 * 8 * 19) + 8 * 8 * 19,  # 19 scores a pixel
    ],
    "small": [
        (16 * 16 * 3) * 248 + 248,
        16 * 16 * 8,
        *(6 * block(256, 8 * 32, 768, 256)),
        2 * 256,
        256 * 128 + 128,
        (16 * 16 * 3) * 128 + 128,
        2 * (128 + 128),
        (128 + 128) * 512 + 512,
        512 * 512 + 512,
        512 * (16 * 16 * 19) + 16 * 16 * 19,
    ],
    "base": [
        (8 * 8 * 3) * 504 + 504,
        32 * 32 * 8,
        *(8 * block(512, 8 * 64, 2048, 512)),
        2 * 512,
        512 * 256 + 256,
        (8 * 8 * 3) * 256 + 256,
        2 * (256 + 256),
        (256 + 256) * 1024 + 1024,
        1024 * 1024 + 1024,
        1024 * (8 * 8 * 19) + 8 * 8 * 19,
    ],
}


@pytest.mark.parametrize("preset", BY_HAND)
def test_parameters_of_each_layer_are_those_counted_by_hand(preset):
    summary = summarize(load_recipe(preset).model, (256, 256), 19)
    assert [row.parameters for row in summary.rows] == BY_HAND[preset]
    assert summary.parameters == summary.trainable == sum(BY_HAND[preset])


def test_parameters_of_the_numbers_in_the_paper_with_its_wider_skip_path():
    first = block(128 + 8, 8 * 16, 512, 1024)
    by_hand = [
        (16 * 16 * 3) * 128 + 128,
        16 * 16 * 8,
        *first[:3],
        (128 + 8) * 1024 + 1024,  # the skip path goes from 136 to 1024
        *first[3:],
        *(3 * block(1024, 8 * 16, 512, 1024)),
        2 * 1024,
        1024 * 32 + 32,
        (16 * 16 * 3) * 128 + 128,
        2 * (32 + 128),
        (32 + 128) * 512 + 512,
        512 * 512 + 512,
        512 * 512 + 512,
        512 * (16 * 16 * 3) + 16 * 16 * 3,  # its target is the colour image
    ]
    summary = summarize(Architecture(target="rgb"), (256, 256), 19)
    assert [row.parameters for row in summary.rows] == by_hand


def test_rows_follow_the_forward_pass():
    summary = summarize(load_recipe("tiny").model, (128, 256), 19)
    names = [row.name for row in summary.rows]
    assert names[0] == "encoder.embedding.projection"
    assert names[-1].startswith("decoder.")
    assert names.index("encoder.norm") < names.index("encoder.features") < names.index("decoder.projection")
    assert summary.tokens == 16 * 32
    assert summary.rows[0].output_shape == (512, 120)
    assert summary.rows[-1].output_shape == (512, 8 * 8 * 19)


def test_flops_are_twice_the_multiplications_counted_by_hand():
    tokens = 16 * 32
    block_linear = 128 * 3 * 128 + 128 * 128 + 128 * 256 + 256 * 128
    block_attention = 2 * tokens * 128  # Q·Kᵀ and weights·V, over all heads
    decoder = 192 * 64 + 128 * 256 + 256 * 256 + 256 * 64 * 19
    a_token = 192 * 120 + 4 * (block_linear + block_attention) + 128 * 64 + decoder
    assert summarize(load_recipe("tiny").model, (128, 256), 19).flops_per_image == 2 * tokens * a_token


def test_convolutions_are_counted_and_there_are_none():
    assert not any(summarize(load_recipe(preset).model, (256, 256), 19).convolutions for preset in presets())
    assert count_convolutions(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Sequential(nn.ConvTranspose2d(1, 1, 1)))) == 2


def test_a_size_that_does_not_fit_is_a_usage_error():
    with pytest.raises(UsageError, match="--size 256x248"):
        summarize(load_recipe("tiny").model, (250, 256), 19)


def test_huge_networks_are_described_without_memory():
    arch = Architecture(encoder_projection=16384, mlp_units=(16384, 16384), decoder_mlp_units=(16384,))
    assert summarize(arch, (1024, 1024), 19).parameters > 10**9
    assert torch.get_default_device().type == "cpu"
