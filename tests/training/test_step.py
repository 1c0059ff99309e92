"""One optimizer step: the same however its batch is cut up, and left out where numbers overflow."""

import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from tests.bench.launches import beside_the_graph
from tests.training.conftest import AUGMENT, MakeTrainer, Power, small_recipe, weights


@pytest.mark.parametrize(
    "loss",
    [[], ["loss.class_weights=balanced", "loss.label_smoothing=0.1"], ["loss.dice=1"], ["model.target=rgb"]],
    ids=lambda loss: "+".join(loss) or "plain",
)
def test_accumulated_parts_give_the_gradient_of_the_whole_batch(make_trainer: MakeTrainer, loss: list[str]) -> None:
    ends = []
    for parts in (1, 2, 4):
        settings = [f"optimizer.accumulate={parts}", "run.epochs=1", "optimizer.clip_norm=0.0", *AUGMENT, *loss]
        recipe = small_recipe(*settings)
        trainer = make_trainer(f"parts-{parts}", recipe, dtype=torch.float64)
        trainer.run()
        ends.append(weights(trainer))
    for other in ends[1:]:
        for name, tensor in ends[0].items():
            torch.testing.assert_close(tensor, other[name], rtol=0, atol=1e-6, msg=name)


def test_the_loss_of_a_step_is_torchs_weighted_mean(make_trainer: MakeTrainer) -> None:
    recipe = small_recipe("loss.class_weights=balanced", "loss.label_smoothing=0.1", "run.epochs=1")
    trainer = make_trainer("job", recipe, heard := Power())
    batch = next(trainer.data.epoch(0))
    with torch.no_grad():
        output = trainer.model.train()(batch.images)
    weights = trainer.objective.criterion.weights
    wanted = F.cross_entropy(output, batch.labels.long(), weights, ignore_index=255, label_smoothing=0.1)
    trainer.run()
    assert heard.losses[1] == pytest.approx(float(wanted), rel=1e-5)


def test_a_step_moves_each_part_at_its_own_rate(make_trainer: MakeTrainer) -> None:
    recipe = small_recipe(
        "optimizer.name=adamw", "optimizer.learning_rate=0.01", "optimizer.encoder_rate=0.002", "optimizer.layer_decay=0.5",
        "optimizer.weight_decay=0.0",
    )  # fmt: skip
    trainer = make_trainer("job", recipe)
    before = weights(trainer)
    batch = next(trainer.data.epoch(0))
    trainer.learner.take_step(batch, step=0, learning_rate=0.005, time_used=0.0)  # in warm-up: half of the peak
    moved = {name: (tensor - before[name]).abs().max().item() for name, tensor in weights(trainer).items()}
    # The first step of AdamW is as long as its rate.
    last = len(trainer.model.encoder.blocks) - 1
    assert max(size for name, size in moved.items() if name.startswith("decoder.")) == pytest.approx(0.005, rel=1e-2)
    assert moved["encoder.norm.weight"] == pytest.approx(0.001, rel=1e-2)
    assert moved[f"encoder.blocks.{last}.mlp.layers.0.weight"] == pytest.approx(0.0005, rel=1e-2)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_learns_nearly_the_same(make_trainer: MakeTrainer, precision: str) -> None:
    settings = ["run.epochs=4", "optimizer.learning_rate=0.005"]
    whole = make_trainer("whole", small_recipe(*settings)).run()
    half = make_trainer("half", small_recipe(*settings, f"run.precision={precision}"))
    rows = half.run()
    assert rows[0] != whole[0]
    assert rows[-1]["train/loss"] == pytest.approx(whole[-1]["train/loss"], rel=0.1)
    assert half.learner.scaler.is_enabled() == (precision == "float16")


def test_a_step_that_overflows_in_float16_is_left_out(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("job", small_recipe("run.epochs=1", "run.precision=float16"))
    trainer.learner.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    before = weights(trainer)
    rows = trainer.run()
    assert math.isfinite(rows[0]["train/loss"])
    assert trainer.learner.scaler.get_scale() < 2.0**60
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(trainer).items())


def test_a_gradient_that_overflows_in_one_optimizers_part_changes_nothing(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("job", small_recipe("run.epochs=1", "run.precision=float16", "optimizer.average=0.9"))
    matrix = next(parameter for parameter in trainer.model.parameters() if parameter.ndim == 2)
    matrix.register_hook(lambda gradient: gradient * math.inf)
    before = weights(trainer)
    trainer.run()
    assert trainer.learner.scaler.get_scale() == 2.0**13  # from 2¹⁶, halved by each of three steps
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(trainer).items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.learner.eval_model.state_dict().items())


def test_a_step_launches_few_operations_beside_its_graph(tmp_path: Path) -> None:
    assert beside_the_graph("small", tmp_path) <= 300
