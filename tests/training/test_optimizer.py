"""Which parameter is whose, what a step of Muon does, and the learning rate of each step."""

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from vitseg.architecture import Architecture
from vitseg.model.segmenter import build_model
from vitseg.recipe import OptimizerRecipe
from vitseg.training.optimizer import build_optimizers, learning_rate

RECIPE = OptimizerRecipe(learning_rate=0.5, warmup_share=0.1)
CONSTANT = dataclasses.replace(RECIPE, schedule="constant")


def rates(recipe: OptimizerRecipe, steps: int) -> list[float]:
    return [learning_rate(recipe, step, steps) for step in range(steps)]


@pytest.mark.parametrize("recipe", [RECIPE, CONSTANT])
def test_warm_up_rises_in_equal_steps_to_the_peak(recipe: OptimizerRecipe) -> None:
    assert rates(recipe, 100)[:10] == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5])


def test_cosine_falls_to_nearly_nothing() -> None:
    after = rates(RECIPE, 1000)[100:]
    assert after[0] == 0.5
    assert after[450] == pytest.approx(0.25)
    assert all(one > two for one, two in itertools.pairwise(after))
    assert 0 < after[-1] < 1e-5


def test_constant_stays() -> None:
    assert set(rates(CONSTANT, 100)[10:]) == {0.5}


def test_without_warm_up_the_first_step_is_the_peak() -> None:
    assert rates(dataclasses.replace(RECIPE, warmup_share=0), 10)[0] == 0.5


@given(
    st.integers(1, 50),
    st.floats(0, 0.99),
    st.sampled_from(["cosine", "constant"]),
)
def test_every_step_of_every_schedule_learns(steps: int, share: float, schedule: str) -> None:
    recipe = OptimizerRecipe(learning_rate=0.5, warmup_share=share, schedule=schedule)
    assert all(0 < rate <= 0.5 for rate in rates(recipe, steps))


@pytest.mark.parametrize("position", ["concat", "add"])
def test_weight_matrices_decay_and_nothing_else(position: str) -> None:
    model = build_model(Architecture(position=position, patch_size=8, blocks=1), (16, 16), 3, seed=0)
    [optimizer] = build_optimizers(model, OptimizerRecipe(learning_rate=0.25, weight_decay=0.125))
    decayed, free = optimizer.param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.125, 0.0)
    assert decayed["lr"] == free["lr"] == 0.25
    matrices = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    assert {id(parameter) for parameter in decayed["params"]} == matrices
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {id(parameter) for parameter in free["params"]} == names.keys() - matrices
    assert "encoder.embedding.position" in {names[id(parameter)] for parameter in free["params"]}


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_registers_neither_decay_nor_turn(name: str) -> None:
    arch = Architecture(position="rotary", registers=4, class_token=True, patch_size=8, blocks=1)
    model = build_model(arch, (16, 16), 3, seed=0)
    adamw, *_ = build_optimizers(model, OptimizerRecipe(name=name))
    free = {id(parameter) for parameter in adamw.param_groups[1]["params"]}
    assert adamw.param_groups[1]["weight_decay"] == 0
    assert {id(model.encoder.registers), id(model.encoder.class_token)} <= free


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_decay_pulls_matrices_alone(name: str) -> None:
    model = build_model(Architecture(patch_size=8, blocks=1), (16, 16), 3, seed=0)
    for parameter in model.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    for optimizer in build_optimizers(model, OptimizerRecipe(name=name, learning_rate=0.1, weight_decay=0.5)):
        optimizer.step()
    assert {round(parameter.mean().item(), 4) for parameter in model.parameters() if parameter.ndim < 2} == {1.0}
    assert model.encoder.embedding.position.mean().item() == 1.0
    assert model.encoder.embedding.projection.weight.mean().item() == pytest.approx(0.95)


@pytest.mark.parametrize("decoder", ["patch", "attention", "spiral"])
def test_muon_takes_the_matrices_but_for_embeddings_and_the_last(decoder: str) -> None:
    arch = Architecture(decoder=decoder, patch_size=8, blocks=1, fine_blocks=1)
    model = build_model(arch, (16, 16), 3, seed=0)
    adamw, muon = build_optimizers(model, OptimizerRecipe(name="muon"))
    [group] = muon.param_groups
    matrices = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    assert {id(parameter) for parameter in group["params"]} == matrices - {id(model.decoder.head.weight)}
    both = [id(parameter) for group in (*adamw.param_groups, *muon.param_groups) for parameter in group["params"]]
    assert sorted(both) == sorted(map(id, model.parameters()))


def test_a_step_of_muon_turns_all_directions_about_equally() -> None:
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    before = model[0].weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.diag(torch.tensor([100.0, 50, 10, 5, 3, 2, 1.5, 1]))
    for optimizer in build_optimizers(model, OptimizerRecipe(name="muon", learning_rate=0.1, weight_decay=0)):
        optimizer.step()
    turned = torch.linalg.svdvals(before - model[0].weight.detach())
    assert turned.max() / turned.min() < 3  # of the gradient: 100
    assert turned.square().mean().sqrt() == pytest.approx(0.1 * 0.2 * 8**0.5, rel=0.3)  # of an update: 0.2 rates


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_where_time_is_short_the_rate_has_fallen_when_it_is_up(share: float) -> None:
    recipe = dataclasses.replace(RECIPE, warmup_share=share)
    taken = [learning_rate(recipe, step, 1000, step / 40) for step in range(40)]  # time for 40 of 1000 steps
    assert taken[-1] < 0.01 * recipe.learning_rate
    assert [learning_rate(recipe, step, 1000, 0.0) for step in range(1000)] == rates(recipe, 1000)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_what_does_not_learn_is_in_no_optimizer(name: str) -> None:
    arch = Architecture(patch_size=8, blocks=2, encoder=1, decoder="linear")
    model = build_model(arch, (16, 16), 3, seed=0)
    optimizers = build_optimizers(model, OptimizerRecipe(name=name))
    held = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    assert held == {
        id(p) for part in (model.encoder.blocks[1], model.encoder.norm, model.decoder) for p in part.parameters()
    }


def rates_by_name(model: nn.Module, recipe: OptimizerRecipe) -> dict[str, float]:
    """Return the peak learning rate of each parameter that learns."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: group["lr"]
        for optimizer in build_optimizers(model, recipe)
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_an_encoder_learns_slower_the_further_from_the_decoder(name: str) -> None:
    arch = Architecture(patch_size=8, blocks=2, class_token=True, position="add")
    model = build_model(arch, (16, 16), 3, seed=0)
    recipe = OptimizerRecipe(name=name, learning_rate=0.5, encoder_rate=0.25, layer_decay=0.5)
    found = rates_by_name(model, recipe)
    assert found.keys() == {name for name, _ in model.named_parameters()}
    for parameter, rate in found.items():
        place = next((place for place in PLACES if parameter.startswith(place)), "")
        assert rate == PLACES.get(place, 0.5), parameter


PLACES = {
    "encoder.norm.": 0.25,
    "encoder.blocks.1.": 0.125,
    "encoder.blocks.0.": 0.0625,
    "encoder.": 0.03125,  # the embedding of patches and the class token
}
