"""A training that was interrupted ends like one that was not."""

import itertools
import json

import pytest
import torch

from tests.training.conftest import AUGMENT, MakeTrainer, Power, Weights, small_recipe, weights
from vitseg.checkpoint import newest_checkpoint
from vitseg.training.objectives.segmentation import Segmentation
from vitseg.training.progress import TimeBudget, chosen_row


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


def test_a_job_from_a_bfloat16_machine_goes_on_where_there_is_only_float16(make_trainer: MakeTrainer) -> None:
    trainers = [
        make_trainer("job", small_recipe(f"run.epochs={epochs}", f"run.precision={precision}"))
        for epochs, precision in ((1, "bfloat16"), (2, "float16"), (3, "bfloat16"))
    ]
    assert [len(trainer.run()) for trainer in trainers] == [1, 2, 3]


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
