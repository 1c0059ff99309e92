"""A step by a recorded graph is the step itself; here a stand-in for the GPU runs the pass again wherever a graph would."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.conftest import AUGMENT, MakeTrainer, Power, small_recipe, weights
from vitseg.dist import World
from vitseg.errors import TrainingError
from vitseg.training import cuda_graph
from vitseg.training.cuda_graph import GraphedPass
from vitseg.training.loop import Trainer
from vitseg.training.step import Learner

RANDOM = ["model.stochastic_depth=0.4", "model.dropout=0.2", "model.blocks=2", *AUGMENT]


class Device:
    """Records what a GPU would: a replay puts outputs and gradients of its pass where those of the recording were."""

    def __init__(self, parameters: list[torch.nn.Parameter], fails: str = "") -> None:
        self.parameters, self.fails, self.replays = parameters, fails, 0

    def record(self, function: Callable[[], tuple[Tensor, ...]]) -> tuple[tuple[Tensor, ...], Callable[[], None]]:
        for parameter in self.parameters:
            assert parameter.grad is None  # else the recorded kernels would add to it
        with torch.random.fork_rng(devices=[]):  # recording draws nothing
            outputs = function()
        if self.fails:
            raise RuntimeError(self.fails)
        gradients = [parameter.grad for parameter in self.parameters]
        for tensor in (*outputs, *(each for each in gradients if each is not None)):
            tensor.fill_(float("nan"))  # nothing has been computed

        def replay() -> None:
            self.replays += 1
            for parameter in self.parameters:
                parameter.grad = None
            found = function()
            for place, tensor in zip(outputs, found, strict=True):
                place.copy_(tensor)
            for parameter, place in zip(self.parameters, gradients, strict=True):
                if place is not None:
                    place.copy_(parameter.grad)
                parameter.grad = None

        return outputs, replay


@pytest.fixture
def graphed(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Trainer, Device]]:
    """Return a function that builds a trainer whose steps are recorded, and the device that does it."""

    def make(*arguments: Any, fails: str = "") -> tuple[Trainer, Device]:
        trainer = make_trainer(*arguments)
        learner = trainer.learner
        device = Device(learner.parameters, fails)
        monkeypatch.setattr(cuda_graph, "record", device.record)
        monkeypatch.setattr(cuda_graph, "run_beside", lambda function: function())
        learner.graphed = True
        learner.compute_gradients = GraphedPass(learner._backward, learner.parameters)
        return trainer, device

    return make


@pytest.mark.parametrize(
    "settings",
    [RANDOM, ["optimizer.accumulate=2", "optimizer.name=muon"], ["run.precision=float16"], ["optimizer.average=0.9"]],
    ids=lambda settings: settings[0],
)
def test_a_graph_trains_the_same_weights(
    make_trainer: MakeTrainer, graphed: Callable[..., tuple[Trainer, Device]], settings: list[str]
) -> None:
    recipe = small_recipe("run.epochs=2", *settings)
    plain = make_trainer("plain", recipe)
    rows = plain.run()
    trainer, device = graphed("graphed", recipe)
    assert trainer.run() == rows
    assert device.replays == trainer.progress.step - 1  # the first step runs as it is
    for name, tensor in weights(plain).items():
        assert torch.equal(tensor, weights(trainer)[name]), name


def test_a_resumed_job_ends_with_the_weights_of_one_that_was_not_killed(
    make_trainer: MakeTrainer, graphed: Callable[..., tuple[Trainer, Device]]
) -> None:
    recipe = small_recipe("run.epochs=2", "run.checkpoint_steps=1", *RANDOM)
    straight = make_trainer("straight", recipe)
    straight.run()
    cut, device = graphed("cut", recipe, Power(cut=3))
    with pytest.raises(KeyboardInterrupt):
        cut.run()
    assert device.replays
    rest, device = graphed("cut", recipe)
    rest.run()
    assert device.replays
    for name, tensor in weights(straight).items():
        assert torch.equal(tensor, weights(rest)[name]), name


def test_where_recording_fails_the_same_step_goes_on_without_and_says_so(
    make_trainer: MakeTrainer, graphed: Callable[..., tuple[Trainer, Device]], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = small_recipe("run.epochs=2", *RANDOM)
    plain = make_trainer("plain", recipe)
    plain.run()
    trainer, device = graphed("failing", recipe, fails="operation not permitted when stream is capturing\nmore")
    trainer.run()
    said = capsys.readouterr().out
    assert said.count("no CUDA graph of a step") == 1
    assert "operation not permitted when stream is capturing" in said
    assert "more" not in said
    assert not device.replays
    for name, tensor in weights(plain).items():
        assert torch.equal(tensor, weights(trainer)[name]), name


def test_a_recorded_step_says_what_it_cost(
    graphed: Callable[..., tuple[Trainer, Device]], capsys: pytest.CaptureFixture[str]
) -> None:
    trainer, _ = graphed("job", small_recipe("run.epochs=1"))
    trainer.run()
    assert capsys.readouterr().out.count("a step is one CUDA graph from now on, which took 0.") == 1


def test_a_loss_that_is_not_finite_is_told_with_its_samples(
    graphed: Callable[..., tuple[Trainer, Device]],
) -> None:
    trainer, device = graphed("job", small_recipe("run.epochs=2", "optimizer.accumulate=4", "run.log_steps=1"))
    inputs, loss = trainer.objective.inputs, trainer.objective.loss

    def black(batch: Any, step: int, rows: Any) -> tuple[Tensor, Tensor]:
        images, labels = inputs(batch, step, rows)
        if step == 2:
            images[2:4] = 0  # the second of four parts
        return images, labels

    def spoiled(output: Tensor, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        total, correct = loss(output, images, targets)
        return total.where(images.any() > 0, torch.nan), correct

    trainer.objective.inputs, trainer.objective.loss = black, spoiled  # type: ignore[method-assign]
    batch = list(trainer.data.epoch(0))[2]
    with pytest.raises(TrainingError, match=f"from samples {', '.join(batch.keys[2:4])}: lower"):
        trainer.run()
    assert device.replays


@pytest.mark.parametrize(
    ("device", "settings", "graphed"),
    [
        ("cpu", [], False),
        ("cuda", [], True),
        ("cuda", ["run.cuda_graph=false"], False),
        ("cuda", ["model.decoder=spiral"], False),  # teacher forcing waits for the device
    ],
)
def test_a_graph_is_for_gpus_and_for_models_that_never_wait(
    make_trainer: MakeTrainer, device: str, settings: list[str], graphed: bool
) -> None:
    objective = make_trainer("job", small_recipe("run.precision=float32", *settings)).objective
    learner = Learner(objective, World(0, 1, torch.device(device)))
    assert learner.graphed == isinstance(learner.compute_gradients, GraphedPass) == graphed
