"""The loop: the same steps however it was cut up, interrupted or resumed."""

import dataclasses
import itertools
import math
import time
from typing import Any

import pytest
import torch

from tests.training.conftest import Fading, MakeTrainer, Power, small_recipe
from vitseg.checkpoint import checkpoint_keys, newest_checkpoint
from vitseg.errors import AccessError, TrainingError
from vitseg.evaluation import evaluate_batches
from vitseg.training.progress import TimeBudget, chosen_row


def test_it_learns(make_trainer: MakeTrainer) -> None:
    rows = make_trainer("job", small_recipe("run.epochs=10", "optimizer.learning_rate=0.005")).run()
    assert rows[-1]["train/loss"] < 0.8 * rows[0]["train/loss"]
    assert rows[-1]["val/pixel_accuracy"] > rows[0]["val/pixel_accuracy"]
    assert [row["epoch"] for row in rows] == list(range(1, 11))


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


def test_patience_that_ends_with_the_last_epoch_stopped_nothing(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("job", small_recipe("run.epochs=3", "run.patience=1", "optimizer.learning_rate=0.005"))
    trainer.logger = Fading(trainer, after=7)
    rows = trainer.run()
    assert (len(rows), trainer.progress.best.since) == (3, 1)
    assert "stopped" not in rows[-1]
    assert chosen_row(rows)["epoch"] == trainer.progress.best.epoch == 2
