"""The loop: the same steps however it was cut up, interrupted or resumed."""

import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.training.conftest import AUGMENT, MakeTrainer, small_recipe
from vitseg.checkpoint import checkpoint_keys
from vitseg.errors import TrainingError
from vitseg.training.loop import Recorder


class Power(Recorder):
    """Fails at a step, as a power cut would, and remembers what it heard before."""

    def __init__(self, cut: int = 10**9) -> None:
        self.cut = cut
        self.losses: dict[int, float] = {}
        self.rows: list[dict[str, Any]] = []
        self.panels_drawn: list[int] = []

    def step(self, step: int, values: dict[str, float]) -> None:
        if step == self.cut:
            raise KeyboardInterrupt
        self.losses[step] = values["loss"]

    def epoch(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def panels(self, model: torch.nn.Module, epoch: int) -> None:
        self.panels_drawn.append(epoch)


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 6, 8, 9])
def test_an_interrupted_job_ends_like_one_that_was_not(make_trainer: MakeTrainer, cut: int) -> None:
    recipe = small_recipe("model.dropout=0.1", *AUGMENT)
    straight = make_trainer("straight", recipe, heard := Power())
    history = straight.run()
    with pytest.raises(KeyboardInterrupt):
        make_trainer("cut", recipe, before := Power(cut)).run()
    resumed = make_trainer("cut", recipe, after := Power())
    assert resumed.run() == history
    assert {**before.losses, **after.losses} == heard.losses
    for name, tensor in weights(straight).items():
        assert torch.equal(tensor, weights(resumed)[name]), name


def test_a_finished_job_does_nothing_more(make_trainer: MakeTrainer) -> None:
    recipe = small_recipe("run.epochs=1")
    history = make_trainer("job", recipe).run()
    again = make_trainer("job", recipe, heard := Power())
    assert again.run() == history
    assert heard.losses == {}


@pytest.mark.parametrize(
    "loss",
    [[], ["loss.class_weights=balanced", "loss.label_smoothing=0.1"], ["loss.dice=1"], ["model.target=rgb"]],
    ids=lambda loss: "+".join(loss) or "plain",
)
def test_accumulated_parts_give_the_gradient_of_the_whole_batch(make_trainer: MakeTrainer, loss: list[str]) -> None:
    ends = []
    for parts in (1, 2, 4):
        settings = [f"optimiser.accumulate={parts}", "run.epochs=1", "optimiser.clip_norm=0.0", *AUGMENT, *loss]
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
    weights = trainer.task.weights
    wanted = F.cross_entropy(output, batch.labels.long(), weights, ignore_index=255, label_smoothing=0.1)
    trainer.run()
    assert heard.losses[1] == pytest.approx(float(wanted), rel=1e-5)


def test_it_learns(make_trainer: MakeTrainer) -> None:
    rows = make_trainer("job", small_recipe("run.epochs=10", "optimiser.learning_rate=0.005")).run()
    assert rows[-1]["train/loss"] < 0.8 * rows[0]["train/loss"]
    assert rows[-1]["val/pixel_accuracy"] > rows[0]["val/pixel_accuracy"]
    assert [row["epoch"] for row in rows] == list(range(1, 11))


def test_what_is_trained_on_is_changed_and_what_is_validated_is_not(make_trainer: MakeTrainer) -> None:
    heard = []
    for name, overrides in (("plain", []), ("changed", AUGMENT), ("grey", ["augment.scale=[0.25, 0.25]"])):
        recipe = small_recipe("run.epochs=1", "optimiser.learning_rate=1e-12", *overrides)
        heard.append(make_trainer(name, recipe).run()[0])
    plain, changed, grey = heard
    assert changed["train/loss"] != plain["train/loss"] != grey["train/loss"]
    for row in (changed, grey):
        assert row["val/loss"] == pytest.approx(plain["val/loss"], rel=1e-6)


def test_each_step_is_augmented_by_its_own_number(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = []

    def spy(images: Any, labels: Any, *arguments: Any, seed: int, step: int, rows: Any) -> Any:
        heard.append((*arguments, seed, step, list(rows)))
        return images, labels

    monkeypatch.setattr("vitseg.training.loop.augment", spy)
    recipe = small_recipe("run.epochs=1", "run.seed=5", *AUGMENT)
    trainer = make_trainer("job", recipe)
    trainer.run()
    pixels = trainer.data.pixels_per_class
    assert sum(pixels) > 0
    assert heard == [(recipe.augment, pixels, 5, step, list(range(8))) for step in range(3)]


def test_a_loss_that_is_no_number_stops_with_step_and_rate(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("job", small_recipe())
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(math.nan)
    with pytest.raises(TrainingError, match=r"step 0 .*learning rate"):
        trainer.run()
    assert not checkpoint_keys(trainer.checkpoints)


def test_only_the_newest_checkpoints_stay(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("job", small_recipe("run.keep_checkpoints=2"))
    trainer.run()
    assert [key[:13] for key in checkpoint_keys(trainer.checkpoints)] == ["step-00000009", "step-00000008"]


def test_panels_come_when_asked_for_and_at_the_end(make_trainer: MakeTrainer) -> None:
    make_trainer("job", small_recipe("run.epochs=5", "run.panel_epochs=2"), heard := Power()).run()
    assert heard.panels_drawn == [2, 4, 5]


def test_colours_are_learned_too(make_trainer: MakeTrainer) -> None:
    rows = make_trainer("job", small_recipe("model.target=rgb", "run.epochs=6", "optimiser.learning_rate=0.005")).run()
    assert rows[-1]["val/mean_absolute_error"] < rows[0]["val/mean_absolute_error"]
    assert 0 < rows[-1]["val/loss"] < 0.5


@pytest.mark.parametrize("target", ["classes", "rgb"])
def test_a_decoder_that_wants_the_truth_gets_it_in_training_alone(make_trainer: MakeTrainer, target: str) -> None:
    recipe = small_recipe("model.decoder=spiral", f"model.target={target}", "run.epochs=1", "optimiser.accumulate=2")
    trainer = make_trainer("job", recipe)
    given: list[tuple[bool, list[tuple[int, ...]]]] = []
    trainer.model.register_forward_pre_hook(
        lambda module, inputs: given.append((module.training, [tuple(value.shape) for value in inputs]))
    )
    trainer.run()
    size, channels = tuple(trainer.model.image_size), 3 if target == "rgb" else trainer.task.classes
    assert {training for training, _ in given} == {True, False}
    for training, (images, *truth) in given:
        assert truth == ([(images[0], channels, *size)] if training else [])


def test_a_decoder_that_asks_for_no_truth_sees_none(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("job", small_recipe("run.epochs=1"))
    trainer.model.register_forward_pre_hook(lambda _, inputs: pytest.fail("truth") if len(inputs) > 1 else None)
    trainer.run()
