"""Rotary positions: the formula, what scores depend on, and DINOv3's own numbers where transformers is at hand."""

import dataclasses
import math

import pytest
import torch

from vitseg.architecture import Architecture
from vitseg.model.encoder import VisionTransformer
from vitseg.model.rotary import rotate, rotation

ARCH = Architecture(
    patch_size=2, position="rotary", encoder_projection=16, blocks=2, heads=2, head_width=8, mlp_units=(32, 16)
)
LIKE = torch.empty(0)


def by_hand(vector: torch.Tensor, place: tuple[int, int], grid: tuple[int, int]) -> torch.Tensor:
    """Rotate one head (d,) of the patch in a row and column, pair by pair."""
    half, turned = len(vector) // 2, vector.clone()
    for pair in range(half):
        axis, index = divmod(pair, half // 2)
        coordinate = 2 * (place[axis] + 0.5) / grid[axis] - 1
        angle = 2 * math.pi * coordinate / 100 ** (2 * index / half)
        one, two = vector[pair].item(), vector[pair + half].item()
        turned[pair] = one * math.cos(angle) - two * math.sin(angle)
        turned[pair + half] = two * math.cos(angle) + one * math.sin(angle)
    return turned


@pytest.mark.parametrize(("grid", "width"), [((2, 3), 8), ((1, 4), 16), ((3, 1), 4)])
def test_each_pair_of_numbers_is_turned_by_the_row_or_the_column(grid, width):
    torch.manual_seed(0)
    heads = torch.randn(grid[0] * grid[1], width)
    turned = rotate(heads, *rotation(grid, width, 0, LIKE))
    for patch, head in enumerate(heads):
        assert torch.allclose(turned[patch], by_hand(head, divmod(patch, grid[1]), grid), atol=1e-5)


def test_scores_depend_on_how_far_apart_two_patches_are_alone():
    torch.manual_seed(0)
    query, key = (vector.expand(30, 8) for vector in torch.randn(2, 8))
    cosines, sines = rotation((5, 6), 8, 0, LIKE)
    scores = (rotate(query, cosines, sines) @ rotate(key, cosines, sines).T).view(5, 6, 5, 6)
    assert torch.allclose(scores[:4, :5, :4, :5], scores[1:, 1:, 1:, 1:], atol=1e-5)
    assert not torch.allclose(scores[:4], scores[1:], atol=0.1)


def test_tokens_without_a_patch_are_not_rotated_and_shift_nothing():
    torch.manual_seed(0)
    heads = torch.randn(2, 2, 3 + 6, 8)
    turned = rotate(heads, *rotation((2, 3), 8, 3, LIKE))
    assert torch.equal(turned[..., :3, :], heads[..., :3, :])
    assert torch.equal(turned[..., 3:, :], rotate(heads[..., 3:, :], *rotation((2, 3), 8, 0, LIKE)))


def test_visible_patches_keep_their_own_angles():
    visible = torch.tensor([[0, 4, 5], [1, 2, 3]])
    some = rotation((2, 3), 8, 1, LIKE, visible)
    for part, whole in zip(some, rotation((2, 3), 8, 1, LIKE), strict=True):
        assert part.shape == (2, 1, 4, 8)
        for row in range(2):
            assert torch.equal(part[row, 0], whole[[0, *(visible[row] + 1).tolist()]])


def test_the_encoder_sees_in_all_patches_what_it_sees_in_visible_ones_that_are_all():
    torch.manual_seed(0)
    encoder = VisionTransformer(dataclasses.replace(ARCH, class_token=True, registers=2), (2, 3))
    patches, order = torch.rand(2, 6, 12), torch.tensor([[5, 0, 3, 1, 4, 2], [1, 0, 2, 4, 3, 5]])
    tokens, shuffled = encoder(patches, (2, 3)), encoder(patches, (2, 3), order)
    assert torch.allclose(shuffled[:, :3], tokens[:, :3], atol=1e-5)
    for row in range(2):
        assert torch.allclose(shuffled[row, 3:], tokens[row, 3:][order[row]], atol=1e-5)


@pytest.mark.parametrize("grid", [(2, 3), (5, 4)])
def test_where_a_patch_is_matters_on_every_grid(grid):
    torch.manual_seed(0)
    encoder = VisionTransformer(ARCH, (2, 3))
    patches = torch.rand(1, grid[0] * grid[1], 12)
    tokens, moved = encoder(patches, grid), encoder(patches.roll(1, 1), grid).roll(-1, 1)
    assert tokens.shape == (1, grid[0] * grid[1], 16)
    assert not torch.allclose(tokens, moved, atol=1e-4)


def test_half_the_bits_are_enough():
    torch.manual_seed(0)
    encoder = VisionTransformer(dataclasses.replace(ARCH, registers=2), (4, 4))
    patches = torch.rand(2, 16, 12)
    with torch.autocast("cpu", torch.bfloat16):
        tokens = encoder(patches, (4, 4))
    assert torch.allclose(tokens.float(), encoder(patches, (4, 4)), atol=0.1)
    assert encoder.double()(patches.double(), (4, 4)).dtype == torch.float64


def test_transformers_turns_queries_and_keys_the_same_way():
    theirs = pytest.importorskip("transformers.models.dinov3_vit.modeling_dinov3_vit")
    torch.manual_seed(0)
    config = theirs.DINOv3ViTConfig(hidden_size=32, num_attention_heads=2, patch_size=2, image_size=8)
    embedding = theirs.DINOv3ViTRopePositionEmbedding(config).eval()
    query, key = torch.randn(2, 2, 2, 5 + 12, 16)
    cosines, sines = embedding(torch.empty(2, 3, 6, 8))
    expected = theirs.apply_rotary_pos_emb(query, key, cosines, sines)
    turned = rotate(torch.stack((query, key)), *rotation((3, 4), 16, 5, LIKE))
    assert torch.allclose(turned, torch.stack(expected), atol=1e-5)
