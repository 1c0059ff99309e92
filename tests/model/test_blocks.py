import math

import pytest
import torch
from torch import nn

from vitseg.architecture import Architecture
from vitseg.model.blocks import Mlp, MultiHeadAttention, ResidualBranch, TransformerBlock


def test_attention_is_the_formula_of_the_paper_head_by_head():
    torch.manual_seed(0)
    width, heads, head_width = 6, 2, 4  # heads · head_width differs from the width
    attention = MultiHeadAttention(Architecture(heads=heads, head_width=head_width), width)
    tokens = torch.randn(1, 5, width)
    query, key, value = (tokens[0] @ attention.qkv.weight.T + attention.qkv.bias).chunk(3, dim=-1)
    parts = []
    for head in range(heads):
        columns = slice(head * head_width, (head + 1) * head_width)
        weights = torch.softmax(query[:, columns] @ key[:, columns].T / math.sqrt(head_width), dim=-1)
        parts.append(weights @ value[:, columns])
    expected = torch.cat(parts, dim=-1) @ attention.output.weight.T + attention.output.bias
    assert torch.allclose(attention(tokens)[0], expected, atol=1e-5)


def test_mlp_is_linear_only_in_its_last_layer():
    mlp = Mlp(2, (2, 1), dropout=0.0)
    with torch.no_grad():
        mlp.layers[0].weight.copy_(torch.eye(2))
        mlp.layers[0].bias.zero_()
        mlp.layers[1].weight.fill_(1.0)
        mlp.layers[1].bias.fill_(-3.0)
    # GELU(1) = 0.841345, GELU(-1) = -0.158655; the sum minus 3 stays negative: no GELU follows.
    assert torch.allclose(mlp(torch.tensor([[1.0, -1.0]])), torch.tensor([[0.841345 - 0.158655 - 3]]), atol=1e-5)


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("gelu", 0.5 * (1 + math.erf(1 / math.sqrt(2)))),
        ("gelu_tanh", 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * 1.044715))),
        ("quick_gelu", 1 / (1 + math.exp(-1.702))),
        ("swiglu", 3 / (1 + math.exp(-1))),  # the gate comes first
    ],
)
def test_each_activation_is_its_formula(activation, expected):
    mlp = Mlp(2, (1, 1), dropout=0.0, activation=activation)
    with torch.no_grad():
        for layer in mlp.layers:
            layer.weight.copy_(torch.eye(2)[: len(layer.weight), : layer.in_features])
            layer.bias.zero_()
    assert mlp(torch.tensor([[1.0, 3.0]])).item() == pytest.approx(expected, abs=1e-6)


def test_skip_path_is_projected_only_where_the_width_changes():
    same = TransformerBlock(Architecture(mlp_units=(12, 8)), width=8)
    wider = TransformerBlock(Architecture(mlp_units=(12, 20)), width=8)
    assert isinstance(same.skip, nn.Identity)
    assert isinstance(wider.skip, nn.Linear)
    assert wider(torch.rand(2, 3, 8)).shape == (2, 3, 20)


def test_block_passes_tokens_on_when_its_branches_are_silent():
    block = TransformerBlock(Architecture(mlp_units=(12, 8)), width=8)
    for layer in (block.attention.output, block.mlp.layers[-1]):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    tokens = torch.rand(2, 3, 8)
    assert torch.equal(block(tokens), tokens)


def test_dropout_acts_in_training_only():
    block = TransformerBlock(Architecture(mlp_units=(12, 8), dropout=0.5), width=8)
    tokens = torch.rand(2, 3, 8)
    assert not torch.equal(block(tokens), block(tokens))
    block.eval()
    assert torch.equal(block(tokens), block(tokens))


def test_the_papers_skip_path_is_projected_even_where_no_width_changes():
    block = TransformerBlock(Architecture(mlp_units=(12, 8), skip_projection=True), width=8)
    assert isinstance(block.skip, nn.Linear)


def test_layer_scale_starts_as_nearly_nothing():
    block = TransformerBlock(Architecture(mlp_units=(12, 8), layer_scale=1e-6), width=8)
    tokens = torch.rand(2, 3, 8)
    assert torch.allclose(block(tokens), tokens, atol=1e-4)
    assert "mlp_branch.scale" in dict(block.named_parameters())


def test_stochastic_depth_leaves_whole_images_out_and_keeps_the_mean():
    torch.manual_seed(0)
    branch = ResidualBranch(Architecture(stochastic_depth=0.5), width=2, depth=0.5)  # a quarter
    out = branch(torch.zeros(4000, 3, 2), torch.ones(4000, 3, 2)).reshape(4000, -1)
    assert sorted(out.unique().tolist()) == pytest.approx([0, 1 / 0.75])
    assert (out == out[:, :1]).all()
    assert float((out[:, 0] == 0).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert float(out.mean()) == pytest.approx(1, abs=0.04)
    branch.eval()
    assert torch.equal(branch(torch.ones(5, 2), torch.ones(5, 2)), 2 * torch.ones(5, 2))
