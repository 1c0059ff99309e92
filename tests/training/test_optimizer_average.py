"""The average of the weights follows them, and is what is validated and kept."""

import pytest
import torch

from tests.training.conftest import MakeTrainer, small_recipe
from vitseg.evaluation import evaluate_batches
from vitseg.training.optimizer import WeightAverage


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


def test_the_average_leaves_alone_what_does_not_learn(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("job", small_recipe("run.epochs=1", "optimizer.average=0.9", "model.encoder=frozen"))
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.run()
    for name, tensor in trainer.learner.eval_model.state_dict().items():
        assert torch.equal(tensor, before[name]) == name.startswith(("encoder.", "mean", "std")), name
