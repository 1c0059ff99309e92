import pytest
import torch

from vitseg.architecture import Architecture
from vitseg.model.blocks import TransformerBlock
from vitseg.model.convolutional_decoder import NeighborhoodAttention, unfold_overlapping


def by_definition(attention: NeighborhoodAttention, tokens: torch.Tensor) -> torch.Tensor:
    """Compute attention token by token, for one image and one head."""
    query, key, value = attention.qkv(tokens[0]).chunk(3, dim=-1)
    height, width, depth = query.shape
    radius, out = attention.radius, torch.zeros_like(query)
    bias = attention.offset_bias[0].reshape(2 * radius + 1, 2 * radius + 1)
    for row in range(height):
        for column in range(width):
            near = [
                (y, x)
                for y in range(max(0, row - radius), min(height, row + radius + 1))
                for x in range(max(0, column - radius), min(width, column + radius + 1))
            ]
            scores = torch.stack(
                [
                    query[row, column] @ key[y, x] / depth**0.5 + bias[y - row + radius, x - column + radius]
                    for y, x in near
                ]
            )
            out[row, column] = torch.softmax(scores, 0) @ torch.stack([value[y, x] for y, x in near])
    return attention.output(out)[None]


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (9, 10), (1, 1)])
@pytest.mark.parametrize("radius", [1, 2])
def test_every_token_attends_to_its_neighbors_and_nothing_else(size, radius):
    torch.manual_seed(0)
    attention = NeighborhoodAttention(8, heads=1, radius=radius)
    torch.nn.init.normal_(attention.offset_bias)
    tokens = torch.randn(1, *size, 8)
    assert torch.allclose(attention(tokens), by_definition(attention, tokens), atol=1e-5)


def test_the_same_tokens_elsewhere_on_the_grid_give_the_same():
    torch.manual_seed(0)
    attention = NeighborhoodAttention(8, heads=2, radius=2)
    torch.nn.init.normal_(attention.offset_bias)
    scene = torch.randn(1, 20, 20, 8)
    for dy, dx in ((1, 0), (0, 3), (2, 5)):
        moved = attention(scene.roll((dy, dx), (1, 2)))
        inside = (slice(None), slice(6, -6), slice(8, -8))
        assert torch.allclose(moved[inside], attention(scene).roll((dy, dx), (1, 2))[inside], atol=1e-5)


def test_a_block_of_it_with_silent_branches_passes_tokens_on():
    block = TransformerBlock(Architecture(mlp_units=(16, 8)), 8, 1, NeighborhoodAttention(8, heads=2, radius=2))
    for layer in (block.attention.output, block.mlp.layers[-1]):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    tokens = torch.rand(2, 5, 6, 8)
    assert torch.equal(block(tokens), tokens)


def test_unfolded_squares_hold_the_patch_and_half_a_patch_around_it():
    image = torch.arange(1, 8 * 8 + 1).float().reshape(1, 8, 8, 1)
    found = unfold_overlapping(image, 4)
    assert found.shape == (1, 2, 2, 64, 1)
    padded = torch.nn.functional.pad(image[0, ..., 0], (2, 2, 2, 2))
    for row in range(2):
        for column in range(2):
            square = padded[4 * row : 4 * row + 8, 4 * column : 4 * column + 8]
            assert torch.equal(found[0, row, column, :, 0], square.flatten())
