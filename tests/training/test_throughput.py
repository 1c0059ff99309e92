"""What is computed a second: counted as the paper does, measured without a trace in the training."""

import pytest
import torch

from tests.training.conftest import small_recipe
from vitseg.config import load_recipe
from vitseg.dist import World
from vitseg.model.summary import summarize
from vitseg.training import throughput
from vitseg.training.throughput import Throughput, masked_flops, matrix_rate, measure_throughput, training_flops

CPU = torch.device("cpu")


def test_a_training_step_is_three_forward_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "matrix_rate", lambda *_: 200e9)
    recipe = small_recipe()
    flops = summarize(recipe.model, (32, 64), 4).flops_per_image
    found = measure_throughput(training_flops(recipe, (32, 64), 4), "auto", World(0, 1, CPU))
    assert found == Throughput(3 * flops, 200e9)
    values = found.values(images_per_second=10)
    assert values["tflops"] == pytest.approx(30 * flops / 1e12)
    assert values["flops_utilization"] == pytest.approx(30 * flops / 200e9)
    assert found.limits() == pytest.approx({"matrix_tflops": 0.2, "gflop_per_image": 3 * flops / 1e9})


def test_an_encoder_that_sees_a_quarter_computes_less() -> None:
    recipe = load_recipe("small", overrides=["masked.ratio=0.75"])
    whole = load_recipe("small", overrides=["masked.ratio=0.01"])
    assert masked_flops(recipe, (256, 256)) < 0.6 * masked_flops(whole, (256, 256))


def test_the_rate_is_that_of_matrix_products_and_leaves_random_numbers_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    rate = matrix_rate(CPU, seconds=0.02)
    assert torch.equal(torch.rand(3), expected)
    assert 1e8 < rate < 1e14


def test_what_does_not_learn_has_no_backward_pass() -> None:
    def flops(encoder: str, features: bool = False) -> int:
        recipe = load_recipe("tiny", overrides=[f"model.encoder={encoder}"])
        return training_flops(recipe, (32, 64), 4, features=features)

    trained, frozen, decoder = flops("trained"), flops("frozen"), flops("frozen", features=True)
    encoder = frozen - decoder
    assert trained == 3 * encoder + decoder
    embedding = 2 * 32 * 192 * 120  # of 4×8 patches
    assert (flops("1") - frozen) * 4 == 2 * (encoder - embedding)  # the backward pass of one of four blocks
