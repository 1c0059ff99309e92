"""The loop: the same steps however it was cut up, interrupted or resumed."""

import dataclasses
import itertools
import json
import math
import time
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.training.conftest import AUGMENT, MakeTrainer, small_recipe
from vitseg.checkpoint import checkpoint_keys, newest_checkpoint
from vitseg.errors import AccessError, TrainingError
from vitseg.evaluation import evaluate_batches
from vitseg.training.logger import TrainingLogger
from vitseg.training.loop import Trainer
from vitseg.training.objectives.segmentation import Segmentation
from vitseg.training.progress import chosen_row
from vitseg.training.timing import TimeBudget
from vitseg.training.weight_average import WeightAverage


class Power(TrainingLogger):
    """Fails at a step, as a power cut would, and remembers the reports before."""

    def __init__(self, cut: int = 10**9) -> None:
        self.cut = cut
        self.losses: dict[int, float] = {}
        self.used: list[float | None] = []
        self.rows: list[dict[str, Any]] = []
        self.panels_drawn: list[int] = []

    def log_step(self, step: int, values: dict[str, float]) -> None:
        if step == self.cut:
            raise KeyboardInterrupt
        self.losses[step] = values["loss"]
        self.used.append(values.get("time_used"))

    def log_epoch(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def log_panels(self, model: torch.nn.Module, epoch: int) -> None:
        self.panels_drawn.append(epoch)


class Weights(TrainingLogger):
    """Remembers the weights with which each epoch ended."""

    def __init__(self) -> None:
        self.at: dict[int, dict[str, torch.Tensor]] = {}
        self.trainer: Any = None

    def log_epoch(self, row: dict[str, Any]) -> None:
        self.at[row["epoch"]] = weights(self.trainer)


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


@pytest.mark.parametrize("cut", [1, 3, 6, 8])
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


def test_it_learns(make_trainer: MakeTrainer) -> None:
    rows = make_trainer("job", small_recipe("run.epochs=10", "optimizer.learning_rate=0.005")).run()
    assert rows[-1]["train/loss"] < 0.8 * rows[0]["train/loss"]
    assert rows[-1]["val/pixel_accuracy"] > rows[0]["val/pixel_accuracy"]
    assert [row["epoch"] for row in rows] == list(range(1, 11))


def test_what_is_trained_on_is_changed_and_what_is_validated_is_not(make_trainer: MakeTrainer) -> None:
    heard = []
    for name, overrides in (("plain", []), ("changed", AUGMENT), ("gray", ["augment.scale=[0.25, 0.25]"])):
        recipe = small_recipe("run.epochs=1", "optimizer.learning_rate=1e-12", *overrides)
        heard.append(make_trainer(name, recipe).run()[0])
    plain, changed, gray = heard
    assert changed["train/loss"] != plain["train/loss"] != gray["train/loss"]
    for row in (changed, gray):
        assert row["val/loss"] == pytest.approx(plain["val/loss"], rel=1e-6)


def test_each_step_is_augmented_by_its_own_number(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = []

    def spy(images: Any, labels: Any, *arguments: Any, seed: int, step: int, rows: Any) -> Any:
        heard.append((*arguments, seed, step, list(rows)))
        return images, labels

    monkeypatch.setattr("vitseg.training.objectives.base.augment", spy)
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


def test_colors_are_learned_too(make_trainer: MakeTrainer) -> None:
    rows = make_trainer("job", small_recipe("model.target=rgb", "run.epochs=6", "optimizer.learning_rate=0.005")).run()
    assert rows[-1]["val/mean_absolute_error"] < rows[0]["val/mean_absolute_error"]
    assert 0 < rows[-1]["val/loss"] < 0.5


@pytest.mark.parametrize("target", ["classes", "rgb"])
def test_a_decoder_that_wants_the_truth_gets_it_in_training_alone(make_trainer: MakeTrainer, target: str) -> None:
    recipe = small_recipe("model.decoder=spiral", f"model.target={target}", "run.epochs=1", "optimizer.accumulate=2")
    trainer = make_trainer("job", recipe)
    given: list[tuple[bool, list[tuple[int, ...]]]] = []
    trainer.model.register_forward_pre_hook(
        lambda module, inputs: given.append((module.training, [tuple(value.shape) for value in inputs]))
    )
    trainer.run()
    size, channels = tuple(trainer.model.image_size), 3 if target == "rgb" else trainer.objective.criterion.classes
    assert {training for training, _ in given} == {True, False}
    for training, (images, *truth) in given:
        assert truth == ([(images[0], channels, *size)] if training else [])


def test_a_decoder_that_asks_for_no_truth_sees_none(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("job", small_recipe("run.epochs=1"))
    trainer.model.register_forward_pre_hook(lambda _, inputs: pytest.fail("truth") if len(inputs) > 1 else None)
    trainer.run()


class Fading(Power):
    """Ruins the weights when a step has been taken, as a training that runs away would."""

    def __init__(self, trainer: Trainer, after: int) -> None:
        super().__init__()
        self.trainer, self.after = trainer, after

    def log_step(self, step: int, values: dict[str, float]) -> None:
        super().log_step(step, values)
        if step >= self.after:
            with torch.no_grad():
                for parameter in self.trainer.model.parameters():
                    parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step)))


@pytest.mark.parametrize("patience", [0, 2])
def test_the_model_is_that_of_the_best_epoch_also_after_an_interruption(
    make_trainer: MakeTrainer, patience: int
) -> None:
    recipe = small_recipe("run.epochs=6", "optimizer.learning_rate=0.005", f"run.patience={patience}")
    good = make_trainer("good", recipe)
    good.logger = Fading(good, after=7)  # the first two epochs have 6 steps
    history = good.run()
    assert good.progress.best.epoch == 2
    assert len(history) == (4 if patience else 6)
    assert history[-1].get("stopped") == ("patience" if patience else None)
    again = make_trainer("good", recipe)
    assert again.run() == history
    again.select_weights()
    row = chosen_row(history)
    found = evaluate_batches(again.model, again.validation.epoch(0), again.objective.criterion).flat("val/")
    assert row["epoch"] == 2
    assert {name: row[name] for name in found} == found
    last = make_trainer("good", dataclasses.replace(recipe, run=dataclasses.replace(recipe.run, select="last"))).run()
    assert chosen_row(last)["epoch"] == last[-1]["epoch"]


def test_when_time_is_up_training_ends_learned_and_goes_on_with_more(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count()
    monkeypatch.setattr(TimeBudget, "seconds", property(lambda self: next(seconds), lambda self, before: None))
    short = make_trainer("job", small_recipe("run.epochs=5"), heard := Power(), max_minutes=5 / 60)
    rows = short.run()
    rates = short.learner.optimizers[0].param_groups[0]["lr"]
    assert 3 < rows[-1]["step"] < 15
    assert rows[-1]["step"] % 3  # within an epoch, which is validated all the same
    assert rows[-1]["stopped"] == "minutes"
    assert "val/loss" in rows[-1]
    assert heard.panels_drawn == [rows[-1]["epoch"]]
    assert rates < 0.5 * short.recipe.optimizer.learning_rate  # it has fallen by then
    used = [share for share in heard.used if share is not None]
    assert len(used) == rows[-1]["step"]  # whoever shows what is left is told with each step
    assert used == sorted(used)
    assert used[0] < 0.5 <= 1 <= used[-1]
    longer = make_trainer("job", small_recipe("run.epochs=5"), more := Power())
    more_rows = longer.run()
    assert min(more.losses) == rows[-1]["step"] + 1
    assert set(more.used) == {None}  # nothing is said of time where it has no end
    assert [row["epoch"] for row in more_rows] == [1, 2, 3, 4, 5]
    assert "stopped" not in more_rows[-1]


@pytest.mark.parametrize(
    ("overrides", "cut", "then", "chosen"),
    [
        # An epoch that was the best when time was up within it, and whole is not: the best of the whole ones it is.
        ([], [0.6, 0.7], [0.5, 0.55, 0.1], 1),
        ([], [0.6, 0.7], [0.65, 0.55, 0.1], 2),
        ([], [0.7], [0.5, 0.55, 0.1, 0.3], 2),  # in the very first
        (["run.patience=2"], [0.6, 0.5], [0.5, 0.8, 0.1], 3),  # patience does not count it twice
        (["run.evaluate_epochs=4"], [0.7], [0.5, 0.6], 4),  # nor does it count where its whole is not validated
    ],
)
def test_an_epoch_in_which_time_was_up_counts_as_whole_once_it_goes_on(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, overrides: list[str], cut: list[float],
    then: list[float], chosen: int,
) -> None:  # fmt: skip
    scores = iter([*cut, *then])
    monkeypatch.setattr(Segmentation, "validate", lambda *arguments: {"val/miou": next(scores)})
    recipe, before, after = small_recipe("run.epochs=4", *overrides), Weights(), Weights()
    steps, taken = 3 * len(cut) - 1, itertools.count(1)  # time is up within the last of these epochs
    with monkeypatch.context() as patch:
        patch.setattr(TimeBudget, "share", lambda budget, seconds: next(taken) / steps)
        short = before.trainer = make_trainer("job", recipe, before, max_minutes=1)
        rows = short.run()
    assert rows[-1]["step"] == steps
    assert chosen_row(rows)["val/miou"] == max(cut)
    longer = after.trainer = make_trainer("job", recipe, after)
    rows = longer.run()
    longer.select_weights()
    assert chosen_row(rows)["epoch"] == chosen
    assert chosen_row(rows)["val/miou"] == longer.progress.best.score
    wanted = (before.at | after.at)[chosen]
    for name, tensor in longer.model.state_dict().items():
        torch.testing.assert_close(tensor, wanted[name], rtol=0, atol=0)


def test_the_average_follows_the_weights_and_is_what_is_validated(make_trainer: MakeTrainer) -> None:
    recipe = small_recipe("run.epochs=2", "optimizer.average=0.9", "run.select=last")
    trainer = make_trainer("job", recipe)
    seen = []
    update = WeightAverage.update_parameters

    def spy(average: WeightAverage, model: torch.nn.Module) -> None:
        update(average, model)
        seen.append(next(model.parameters()).detach().clone())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WeightAverage, "update_parameters", spy)
        trainer.run()
    wanted = seen[0]
    for number, weight in enumerate(seen[1:], 1):
        kept = min(0.9, (1 + number) / (10 + number))
        wanted = kept * wanted + (1 - kept) * weight
    torch.testing.assert_close(next(trainer.learner.eval_model.parameters()), wanted)
    found = evaluate_batches(trainer.learner.eval_model, trainer.validation.epoch(0), trainer.objective.criterion).flat(
        "val/"
    )
    assert {name: trainer.progress.history[-1][name] for name in found} == found
    trainer.select_weights()
    torch.testing.assert_close(next(trainer.model.parameters()), wanted)


def test_an_interrupted_job_with_an_average_ends_like_one_that_was_not(make_trainer: MakeTrainer) -> None:
    recipe = small_recipe("optimizer.average=0.95")
    straight = make_trainer("straight", recipe)
    history = straight.run()
    with pytest.raises(KeyboardInterrupt):
        make_trainer("cut", recipe, Power(5)).run()
    resumed = make_trainer("cut", recipe)
    assert resumed.run() == history
    for name, tensor in straight.learner.eval_model.state_dict().items():
        assert torch.equal(tensor, resumed.learner.eval_model.state_dict()[name]), name


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


def test_a_checkpoint_holds_what_a_job_is(make_trainer: MakeTrainer) -> None:
    recipe = small_recipe("run.epochs=1", "optimizer.average=0.9")
    trainer = make_trainer("job", recipe, commit="c0ffee")
    trainer.run()
    found = newest_checkpoint(trainer.checkpoints)
    assert found is not None
    assert found.state["recipe"] == json.loads(json.dumps(recipe.to_json()))
    assert found.state["commit"] == "c0ffee"
    assert found.state["seconds"] > 0
    for part, wanted in (
        ("model", trainer.model),
        ("average", trainer.learner.eval_model),
        ("best", trainer.learner.eval_model),
    ):
        assert all(torch.equal(tensor, found.part(part)[name]) for name, tensor in wanted.state_dict().items()), part


def test_training_goes_on_while_a_checkpoint_is_written(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("job", small_recipe("run.epochs=2"), heard := Power())
    write, started = trainer.checkpoints.write, []

    def slow(key: str, *arguments: Any, **options: Any) -> Any:
        before = max(heard.losses)
        started.append(before)
        deadline = time.monotonic() + 20
        while len(started) == 1 and max(heard.losses) == before and time.monotonic() < deadline:
            time.sleep(0.01)  # the first is not written before another step is taken
        assert len(started) > 1 or max(heard.losses) > before
        return write(key, *arguments, **options)

    trainer.checkpoints.write = slow  # type: ignore[method-assign]
    trainer.run()
    assert started[0] == 2
    assert [key[:13] for key in checkpoint_keys(trainer.checkpoints)] == ["step-00000006", "step-00000004"]


def test_a_bucket_that_takes_no_checkpoint_ends_the_job(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("job", small_recipe())

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AccessError("s3://there refuses")

    trainer.checkpoints.write = refuse  # type: ignore[method-assign]
    with pytest.raises(AccessError, match="there refuses"):
        trainer.run()
    assert trainer.progress.step <= 4  # told with the next one


def test_the_samples_whose_loss_is_no_number_are_named(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("job", small_recipe("optimizer.accumulate=4"))
    batch = next(trainer.data.epoch(0, start_step=2))
    loss = trainer.objective.loss

    def spoilt(output: torch.Tensor, images: torch.Tensor, targets: torch.Tensor) -> Any:
        value, right = loss(output, images, targets)
        bad = trainer.progress.step == 2 and any(
            torch.equal(image, one) for image in batch.images[2:4] for one in images
        )
        return value * (math.nan if bad else 1), right

    trainer.objective.loss = spoilt  # type: ignore[method-assign]
    with pytest.raises(TrainingError) as caught:
        trainer.run()
    named = [key for key in batch.keys if key in str(caught.value)]
    assert named == list(batch.keys[2:4])
    assert "step 2 (epoch 1, learning rate" in str(caught.value)
    found = newest_checkpoint(trainer.checkpoints)
    assert found is not None
    assert found.step == 2
    assert all(tensor.isfinite().all() for tensor in found.part("model").values())


def test_less_time_than_was_used_already_still_ends_in_a_validated_epoch(make_trainer: MakeTrainer) -> None:
    recipe = small_recipe("run.epochs=50")
    with pytest.raises(KeyboardInterrupt):
        make_trainer("job", recipe, Power(4)).run()  # there is a checkpoint of step 3, and one epoch
    rows = make_trainer("job", recipe, max_minutes=1e-6).run()
    assert rows[-1]["step"] == 4  # one step more, and then it is told
    assert rows[-1]["stopped"] == "minutes"
    assert "val/loss" in rows[-1]
    assert make_trainer("job", recipe, heard := Power(), max_minutes=1e-6).run() == rows
    assert heard.losses == {}


def test_a_job_from_a_bfloat16_machine_goes_on_where_there_is_only_float16(make_trainer: MakeTrainer) -> None:
    trainers = [
        make_trainer("job", small_recipe(f"run.epochs={epochs}", f"run.precision={precision}"))
        for epochs, precision in ((1, "bfloat16"), (2, "float16"), (3, "bfloat16"))
    ]
    assert [len(trainer.run()) for trainer in trainers] == [1, 2, 3]


def test_a_gradient_that_overflows_in_one_optimizers_part_changes_nothing(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("job", small_recipe("run.epochs=1", "run.precision=float16", "optimizer.average=0.9"))
    matrix = next(parameter for parameter in trainer.model.parameters() if parameter.ndim == 2)
    matrix.register_hook(lambda gradient: gradient * math.inf)
    before = weights(trainer)
    trainer.run()
    assert trainer.learner.scaler.get_scale() == 2.0**13  # from 2¹⁶, halved by each of three steps
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(trainer).items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.learner.eval_model.state_dict().items())


def test_patience_that_ends_with_the_last_epoch_stopped_nothing(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("job", small_recipe("run.epochs=3", "run.patience=1", "optimizer.learning_rate=0.005"))
    trainer.logger = Fading(trainer, after=7)
    rows = trainer.run()
    assert (len(rows), trainer.progress.best.since) == (3, 1)
    assert "stopped" not in rows[-1]
    assert chosen_row(rows)["epoch"] == trainer.progress.best.epoch == 2
