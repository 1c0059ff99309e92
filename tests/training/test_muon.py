"""Muon over stacks does what torch's does matrix by matrix."""

import functools

import pytest
import torch
from torch import nn
from torch.optim import Muon

from vitseg.training import muon
from vitseg.training.muon import StackedMuon, orthogonalized

SHAPES = [(8, 24), (24, 8), (8, 24), (16, 16), (24, 8), (5, 7)]


@pytest.mark.parametrize("turn_in", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("rates", [(0.1, 0.1), (0.1, 0.02)])
def test_it_steps_as_torchs_own(rates: tuple[float, float], turn_in: torch.dtype) -> None:
    torch.manual_seed(0)
    start = [torch.randn(shape) for shape in SHAPES]
    ends = []
    kinds = (functools.partial(Muon, adjust_lr_fn="match_rms_adamw"), functools.partial(StackedMuon, turn_in=turn_in))
    for kind in kinds:
        matrices = [nn.Parameter(matrix.clone()) for matrix in start]
        parts = zip((matrices[:4], matrices[4:]), rates, strict=True)
        optimizer = kind([{"params": part, "lr": rate, "weight_decay": 0.2} for part, rate in parts])
        for step in range(3):
            for number, matrix in enumerate(matrices):
                generator = torch.Generator().manual_seed(10 * step + number)
                matrix.grad = torch.randn(matrix.shape, generator=generator) if number != 3 or step else None
            optimizer.step()
        ends.append((matrices, optimizer.state_dict()["state"]))
    (ones, one), (others, other) = ends
    for matrix, stacked, before in zip(ones, others, start, strict=True):
        moved = (matrix - before).norm()
        assert moved > min(rates)
        assert (matrix - stacked).norm() / moved < 0.02  # torch's own turns them in bfloat16
    assert one.keys() == other.keys()
    for number, state in one.items():  # checkpoints of one are checkpoints of the other
        assert state.keys() == other[number].keys()
        torch.testing.assert_close(state["momentum_buffer"], other[number]["momentum_buffer"])


@pytest.mark.parametrize("turn_in", [torch.bfloat16, torch.float32])
def test_matrices_are_turned_in_the_type_that_is_asked_for(
    turn_in: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix, types = nn.Parameter(torch.randn(8, 24)), []
    matrix.grad = torch.randn(8, 24)
    monkeypatch.setattr(muon, "orthogonalized", lambda stack, *_: types.append(stack.dtype) or stack)
    StackedMuon([{"params": [matrix], "lr": 0.1}], turn_in=turn_in).step()
    assert types == [turn_in]


@pytest.mark.parametrize("shape", [(3, 6, 6), (1, 4, 20)])
def test_all_directions_of_what_comes_out_are_about_as_long(shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    turned = orthogonalized(torch.randn(shape), (3.4445, -4.7750, 2.0315), 5, 1e-7)
    lengths = torch.linalg.svdvals(turned.float())
    assert 0.5 < lengths.min() < lengths.max() < 1.5
