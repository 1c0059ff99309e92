import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from vitseg.model.overlap import OverlapDecoder, OverlapLinear
from vitseg.recipe import Architecture

ARCH = Architecture(
    patch_size=8, features_per_patch=5, decoder_projection=6, decoder_mlp_units=(12,),
    fine_patch=4, fine_width=8, fine_blocks=2, fine_heads=2, fine_reach=2,
)  # fmt: skip


def added_up(layer: OverlapLinear, tokens: torch.Tensor) -> torch.Tensor:
    """Do it the long way: each token writes its whole square, weighted, into a canvas; divide by the weights."""
    batch, height, width, _ = tokens.shape
    side, half = layer.side, layer.side // 2
    line = 1 - ((torch.arange(2 * side) + 0.5) / side - 1).abs()
    window = (line[:, None] * line)[..., None]
    canvas = torch.zeros(batch, height * side + side, width * side + side, layer.channels)
    total = torch.zeros(height * side + side, width * side + side, 1)
    said = tokens @ layer.weight.T + layer.bias
    for row in range(height):
        for column in range(width):
            # The four quarters of a square, as the cells between tokens know them: this token is their last,
            # last but one, ... first of four.
            quarters = said[:, row, column].reshape(batch, 2, 2, side, side, layer.channels)
            square = torch.cat(
                [
                    torch.cat([quarters[:, 1, 1], quarters[:, 1, 0]], 2),
                    torch.cat([quarters[:, 0, 1], quarters[:, 0, 0]], 2),
                ],
                1,
            )
            place = (slice(row * side, row * side + 2 * side), slice(column * side, column * side + 2 * side))
            canvas[:, *place] += square * window
            total[place] += window
    inside = slice(half + side, -half - side)  # at the border tokens repeat, and here they don't
    return (canvas / total)[:, inside, inside], (slice(side, -side), slice(side, -side))


@pytest.mark.parametrize("side", [2, 4])
def test_is_what_overlapping_squares_add_up_to(side):
    torch.manual_seed(0)
    layer = OverlapLinear(6, 3, side)
    nn.init.normal_(layer.bias)
    tokens = torch.randn(2, 4, 5, 6)
    expected, inside = added_up(layer, tokens)
    assert torch.allclose(layer(tokens)[:, *inside], expected, atol=1e-5)


@given(side=st.sampled_from([2, 4, 8]), grid=st.tuples(st.integers(1, 4), st.integers(1, 4)))
def test_equal_tokens_that_say_one_thing_give_it_everywhere(side, grid):
    layer = OverlapLinear(2, 3, side)
    nn.init.zeros_(layer.weight)
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([1.0, -2.0, 0.5]).repeat(4 * side**2))
    cells = layer(torch.rand(1, *grid, 2))
    assert cells.shape == (1, grid[0] * side, grid[1] * side, 3)
    assert torch.allclose(cells, torch.tensor([1.0, -2.0, 0.5]).expand_as(cells), atol=1e-6)


def test_side_one_is_a_linear_layer():
    layer = OverlapLinear(4, 3, 1)
    tokens = torch.rand(2, 3, 2, 4)
    assert torch.equal(layer(tokens), tokens @ layer.weight.T + layer.bias)


def test_what_neighbours_say_meets_without_a_step():
    """One token says 1 and the other -1: between them the value falls evenly, and not at the border of patches."""
    layer = OverlapLinear(1, 1, 16)
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    line = layer(torch.tensor([1.0, -1.0]).reshape(1, 1, 2, 1))[0, 8, :, 0]
    assert line[0] == 1
    assert line[-1] == -1
    steps = -line.detach().diff()
    assert torch.allclose(steps[8:23], torch.tensor(2 / 16))  # a patch by itself would step by 2 after pixel 15


@pytest.mark.parametrize("fine_patch", [0, 2, 4, 8])
def test_output_is_as_large_as_the_image_for_every_finer_patch(fine_patch):
    decoder = OverlapDecoder(dataclasses.replace(ARCH, fine_patch=fine_patch), channels=3)
    pixels = decoder(torch.rand(2, 6, 5), torch.rand(2, 6, 8 * 8 * 3), (2, 3))
    assert pixels.shape == (2, 3, 16, 24)
    assert pixels.is_contiguous(memory_format=torch.channels_last)


def test_both_features_and_the_photograph_count():
    torch.manual_seed(0)
    decoder = OverlapDecoder(ARCH, channels=3)
    features, patches = torch.rand(1, 6, 5), torch.rand(1, 6, 8 * 8 * 3)
    output = decoder(features, patches, (2, 3))
    assert not torch.allclose(decoder(features + 1, patches, (2, 3)), output, atol=1e-4)
    changed = patches.clone()
    changed[0, 0, 0] += 5  # the first pixel
    difference = (decoder(features, changed, (2, 3)) - output).abs().amax(1)[0]
    assert difference[0, 0] > 1e-4
