import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from vitseg.model.convolutional_decoder import ConvolutionalArchitecture, ConvolutionalDecoder, OverlapLinear

ARCH = ConvolutionalArchitecture(
    patch_size=8, features_per_patch=5, decoder_projection=6, decoder_mlp_units=(12,),
    fine_patch=4, fine_width=8, fine_blocks=2, fine_heads=2, fine_radius=2, narrow_width=64, decoder="overlap",
)  # fmt: skip


def added_up(layer: OverlapLinear, tokens: torch.Tensor) -> tuple[torch.Tensor, tuple[slice, slice]]:
    """Do it the long way: each token writes its whole square, weighted, into a canvas; divide by the weights."""
    batch, height, width, _ = tokens.shape
    side = layer.side
    patches = (torch.arange(3 * side) + 0.5) / side - 1.5  # from the middle of a square
    line = torch.where(patches.abs() < 0.5, 0.75 - patches**2, (1.5 - patches.abs()) ** 2 / 2)
    window = (line[:, None] * line)[..., None]
    canvas = torch.zeros(batch, (height + 2) * side, (width + 2) * side, layer.channels)
    total = torch.zeros((height + 2) * side, (width + 2) * side, 1)
    said = tokens @ layer.weight.T + layer.bias
    for row in range(height):
        for column in range(width):
            # The nine patches of a square, as those patches know them: for the upper left one this token is its last.
            nine = said[:, row, column].reshape(batch, 3, 3, side, side, layer.channels).flip(1, 2)
            square = nine.permute(0, 1, 3, 2, 4, 5).reshape(batch, 3 * side, 3 * side, layer.channels)
            place = (slice(row * side, (row + 3) * side), slice(column * side, (column + 3) * side))
            canvas[:, *place] += square * window
            total[place] += window
    inside = slice(2 * side, -2 * side)  # at the border tokens repeat, and here they don't
    assert torch.allclose(total[inside, inside], torch.ones(1))
    return canvas[:, inside, inside], (slice(side, -side), slice(side, -side))


@pytest.mark.parametrize("side", [2, 3, 4])
def test_is_what_overlapping_squares_add_up_to(side):
    torch.manual_seed(0)
    layer = OverlapLinear(6, 3, side)
    nn.init.normal_(layer.bias)
    tokens = torch.randn(2, 4, 5, 6)
    expected, inside = added_up(layer, tokens)
    assert torch.allclose(layer(tokens)[:, *inside], expected, atol=1e-5)


@given(side=st.sampled_from([2, 4, 8]), grid=st.tuples(st.integers(1, 4), st.integers(1, 4)))
def test_equal_tokens_give_equal_pixels_everywhere(side, grid):
    layer = OverlapLinear(2, 3, side)
    nn.init.zeros_(layer.weight)
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([1.0, -2.0, 0.5]).repeat(9 * side**2))
    cells = layer(torch.rand(1, *grid, 2))
    assert cells.shape == (1, grid[0] * side, grid[1] * side, 3)
    assert torch.allclose(cells, torch.tensor([1.0, -2.0, 0.5]).expand_as(cells), atol=1e-6)


def test_side_one_is_a_linear_layer():
    layer = OverlapLinear(4, 3, 1)
    tokens = torch.rand(2, 3, 2, 4)
    assert torch.equal(layer(tokens), tokens @ layer.weight.T + layer.bias)


@pytest.mark.parametrize("side", [4, 8, 16])
def test_neighbors_give_way_evenly_and_without_a_kink(side):
    """Some tokens say 1 and the others -1: wherever that turns round, no place of a patch is steeper than another."""
    layer = OverlapLinear(1, 1, side)
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    line = layer(torch.tensor([1.0] * 3 + [-1.0] * 3).reshape(1, 1, 6, 1))[0, 0, :, 0].detach()
    assert line[: 2 * side].tolist() == [1.0] * 2 * side
    assert line[-2 * side :].tolist() == [-1.0] * 2 * side
    steps = -line.diff()
    assert (steps > -1e-6).all()
    folded = torch.stack([steps[place::side].sum() for place in range(side)])
    assert torch.allclose(folded, torch.tensor(2 / side), atol=1e-5)  # a patch by itself: 2 at its border, else 0
    assert (
        steps.diff().abs().max() < 2.5 / side**2
    )  # where a square ends nothing jumps: its last cell counts for little


def test_nearly_nothing_is_left_where_a_square_ends():
    """What is said there becomes loud with training; with straight lines to 0, of which 1/16 is left, the end showed."""
    layer = OverlapLinear(1, 1, 8)
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    one = torch.zeros(1, 5, 5, 1)
    one[0, 2, 2] = 1
    said = layer(one)[0, :, 20, 0]
    assert said[7] == said[32] == 0  # the square is 24 wide
    assert 0 < said[8] == said[31] < 0.01 * said.max()


@pytest.mark.parametrize("fine_patch", [0, 2, 4, 8])
def test_output_is_as_large_as_the_image_for_every_finer_patch(fine_patch):
    decoder = ConvolutionalDecoder(dataclasses.replace(ARCH, fine_patch=fine_patch), channels=3)
    pixels = decoder(torch.rand(2, 6, 5), torch.rand(2, 6, 8 * 8 * 3), (2, 3))
    assert pixels.shape == (2, 3, 16, 24)
    assert pixels.is_contiguous(memory_format=torch.channels_last)


def test_a_patch_may_be_three_finer_ones():
    arch = dataclasses.replace(ARCH, patch_size=12, fine_patch=4)
    assert ConvolutionalDecoder(arch, channels=3)(torch.rand(2, 6, 5), torch.rand(2, 6, 12 * 12 * 3), (2, 3)).shape == (
        2,
        3,
        24,
        36,
    )


def test_both_features_and_the_photograph_count():
    torch.manual_seed(0)
    decoder = ConvolutionalDecoder(ARCH, channels=3)
    features, patches = torch.rand(1, 6, 5), torch.rand(1, 6, 8 * 8 * 3)
    output = decoder(features, patches, (2, 3))
    assert not torch.allclose(decoder(features + 1, patches, (2, 3)), output, atol=1e-4)
    changed = patches.clone()
    changed[0, 0, 0] += 5  # the first pixel
    difference = (decoder(features, changed, (2, 3)) - output).abs().amax(1)[0]
    assert difference[0, 0] > 1e-4
