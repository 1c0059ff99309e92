import dataclasses
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vitseg.architecture import Architecture
from vitseg.model.attention_decoder import HEAD_WIDTH, AttentionDecoder, spline_scores
from vitseg.model.cubic_interpolation import CubicInterpolation

ARCH = Architecture(
    patch_size=8, mlp_units=(16, 24), decoder="attention", fine_patch=2, fine_width=64, fine_blocks=1, dropout=0.0,
)  # fmt: skip


def decoder_of(arch: Architecture, *, spread: float = 0.5) -> AttentionDecoder:
    torch.manual_seed(0)
    decoder = AttentionDecoder(arch, channels=3).eval()
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=spread / max(1, parameter.shape[-1]) ** 0.5)
    return decoder


def spline(distance: float) -> float:
    distance = abs(distance)
    return 0.75 - distance**2 if distance < 0.5 else max(0.0, 1.5 - distance) ** 2 / 2


def by_definition(decoder: AttentionDecoder, tokens: torch.Tensor, patches: torch.Tensor, grid: tuple[int, int]):
    """Compute the logits of each finer patch of one image by itself, with the nine keys around it."""
    side, parts = decoder.fine_patch, decoder.parts
    per_patch = math.isqrt(patches.shape[-1] // 3) // side
    [block] = decoder.blocks
    keys_values = decoder.keys_values(tokens[0]).view(*grid, parts, parts, 2, -1, HEAD_WIDTH)
    logits = torch.zeros(grid[0] * per_patch, grid[1] * per_patch, 3)
    for row, column in itertools.product(*map(range, logits.shape[:2])):
        patch = patches[0, row // per_patch * grid[1] + column // per_patch].view(per_patch * side, per_patch * side, 3)
        top, left = row % per_patch * side, column % per_patch * side
        token = decoder.projection(patch[top : top + side, left : left + side].flatten())
        place = [(at + 0.5) / decoder.times - 0.5 for at in (row, column)]  # in keys
        query = block.attention.query(block.attention_norm(token)).view(-1, HEAD_WIDTH)
        scores, values = [], []
        for y, x in itertools.product(*(range(round(at) - 1, round(at) + 2) for at in place)):
            weight = spline(y - place[0]) * spline(x - place[1])
            if weight:
                inside = [min(max(at, 0), grid[axis] * parts - 1) for axis, at in enumerate((y, x))]
                key, value = keys_values[inside[0] // parts, inside[1] // parts, inside[0] % parts, inside[1] % parts]
                scores.append((query * key).sum(-1) / HEAD_WIDTH**0.5 + math.log(weight))
                values.append(value)
        mixed = (torch.stack(scores).softmax(0)[..., None] * torch.stack(values)).sum(0)
        token = token + block.attention.output(mixed.flatten())
        token = token + block.mlp(block.mlp_norm(token)[None])[0]
        logits[row, column] = decoder.head(decoder.norm(token))
    return CubicInterpolation(side)(logits.permute(2, 0, 1)[None])


@pytest.mark.parametrize("grid", [(4, 4), (2, 3), (3, 1)])
@pytest.mark.parametrize("fine_patch", [2, 4, 8])
def test_each_finer_patch_asks_the_nine_tokens_around_it_the_nearer_the_more(grid, fine_patch):
    decoder = decoder_of(dataclasses.replace(ARCH, fine_patch=fine_patch))
    tokens, patches = torch.randn(1, grid[0] * grid[1], 24), torch.randn(1, grid[0] * grid[1], 8 * 8 * 3)
    with torch.no_grad():
        expected = by_definition(decoder, tokens, patches, grid)
        assert torch.allclose(decoder(tokens, patches, grid), expected, atol=1e-4)


@given(times=st.integers(1, 8))
def test_weights_of_distance_add_up_to_one_and_reach_nine_tokens(times):
    weights = spline_scores(times).exp()
    assert torch.allclose(weights.sum((2, 3)), torch.ones(1), atol=1e-6)
    assert (weights > 0).sum((2, 3)).max() <= 9


def test_a_token_enters_the_neighborhood_of_a_query_with_weight_0():
    """Along a line of queries, no token's weight jumps: not where it comes in, nor from one patch to the next."""
    weights = spline_scores(64).exp()[:, 33, :, 1]
    assert float(weights.diff(dim=0).abs().max()) < 1.1 / 64
    assert float(weights.diff(n=2, dim=0).abs().max()) < 2.1 / 64**2


def test_an_image_of_one_kind_of_patch_shows_no_patches():
    decoder = decoder_of(dataclasses.replace(ARCH, fine_patch=8))
    tokens, patches = torch.randn(1, 1, 24).expand(-1, 20, -1), torch.randn(1, 1, 192).expand(-1, 20, -1)
    made = decoder(tokens, patches, (4, 5))
    assert made.shape == (1, 3, 32, 40)
    assert torch.allclose(made, made[..., :1, :1].expand_as(made), atol=1e-5)


def test_the_size_of_windows_is_nothing_that_a_bundle_holds():
    assert "distance_bias" not in decoder_of(ARCH).state_dict()


def test_windows_do_not_show():
    """The grid decides how many queries are computed together; the result does not depend on it."""
    decoder = decoder_of(ARCH)
    tokens, patches = torch.randn(1, 8 * 8, 24), torch.randn(1, 8 * 8, 8 * 8 * 3)
    whole = decoder(tokens, patches, (8, 8))
    part = [each.view(1, 8, 8, -1)[:, :7, :5].flatten(1, 2) for each in (tokens, patches)]
    assert torch.allclose(decoder(*part, (7, 5))[..., :40, :24], whole[..., :40, :24], atol=1e-5)


def test_images_of_a_batch_do_not_mix():
    decoder = decoder_of(ARCH)
    tokens, patches = torch.randn(3, 12, 24), torch.randn(3, 12, 8 * 8 * 3)
    together = decoder(tokens, patches, (3, 4))
    assert torch.allclose(together[1], decoder(tokens[1:2], patches[1:2], (3, 4))[0], atol=1e-5)
    assert together.is_contiguous(memory_format=torch.channels_last)
