"""Attention with a cache gives what attention over the whole sequence gives."""

import pytest
import torch

from vitseg.architecture import Architecture
from vitseg.model.spiral_decoder import Attention, CausalBlock, KeyValueCache

WIDTH = 8


def sequence(length: int) -> torch.Tensor:
    return torch.randn(2, length, WIDTH, generator=torch.Generator().manual_seed(0))


def test_a_cache_returns_all_keys_and_values_so_far() -> None:
    attention = Attention(WIDTH, heads=2, head_width=4)
    whole = attention.project(sequence(5))
    cache = KeyValueCache(whole)
    for end in range(1, 6):
        keys, values = cache.append((whole[0][:, :, end - 1 : end], whole[1][:, :, end - 1 : end]))
        assert torch.equal(keys, whole[0][:, :, :end])
        assert torch.equal(values, whole[1][:, :, :end])


def test_causal_attention_ignores_later_tokens() -> None:
    attention = Attention(WIDTH, heads=2, head_width=4)
    tokens = sequence(5)
    changed = tokens.clone()
    changed[:, 3:] += 1
    before, after = (attention(x, attention.project(x), causal=True) for x in (tokens, changed))
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3:], after[:, 3:])


@pytest.mark.parametrize("normalization", ["layer", "none"])
def test_a_block_computes_the_same_token_by_token(normalization: str) -> None:
    torch.manual_seed(0)
    arch = Architecture(heads=2, head_width=4, normalization=normalization)
    block = CausalBlock(arch, WIDTH).eval()
    tokens, memory = sequence(5), block.cross_attention.project(sequence(3))
    cache = KeyValueCache(block.self_attention.project(tokens))
    steps = [block(tokens[:, step : step + 1], memory, cache) for step in range(5)]
    assert torch.allclose(torch.cat(steps, dim=1), block(tokens, memory), atol=1e-6)
