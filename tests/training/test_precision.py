"""What a training computes in: the same for all its ranks and attempts, and as accurate as float32."""

import functools
import json
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from tests.training.conftest import AUGMENT, MakeTrainer, Power, small_recipe, weights
from vitseg import dist, precision
from vitseg.checkpoint import newest_checkpoint
from vitseg.data.loader import Batches
from vitseg.data.manifest import read_manifest
from vitseg.dist import World
from vitseg.evaluation import evaluate_batches
from vitseg.precision import FILE, Measure, Precision, keep, kept, time_both
from vitseg.registry import tracking
from vitseg.storage import open_store
from vitseg.training.job import MASKED, SEGMENTATION, Job, write_job
from vitseg.training.objectives import objective_for
from vitseg.training.precision import job_precision, training_pass
from vitseg.training.worker import train_rank

ALONE = World(0, 1, torch.device("cpu"))
STARTED = multiprocessing.get_context("forkserver")
STARTED.set_forkserver_preload(["tests.training.test_precision"])  # torch is imported once, not by each rank


def faster() -> tuple[float, float]:
    """Measure as where bfloat16 is twice as fast."""
    return 2.0, 1.0


def slower() -> tuple[float, float]:
    """Measure as where bfloat16 is half as fast."""
    return 1.0, 2.0


def not_measured() -> tuple[float, float]:
    raise AssertionError("nothing is to be measured")


@pytest.fixture(autouse=True)
def instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be on a processor with instructions for bfloat16."""
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: True)


def new_job(folder: Path, shards: str = "", *overrides: str, run_id: str = "", task: str = SEGMENTATION) -> Job:
    recipe = small_recipe("run.precision=auto", *overrides)
    fingerprint = read_manifest(shards).fingerprint if shards else ""
    return Job(str(folder), shards, fingerprint, recipe, run_id=run_id, task=task)


@pytest.mark.parametrize(("measure", "other", "name"), [(faster, slower, "bfloat16"), (slower, faster, "float32")])
def test_a_job_goes_on_as_it_began_whatever_is_measured_then(
    make_trainer: MakeTrainer, tmp_path: Path, measure: Measure, other: Measure, name: str
) -> None:
    def attempt(job: str, measured: Measure, logger: Power) -> tuple[Precision, dict[str, torch.Tensor]]:
        found = job_precision(new_job(tmp_path / job), ALONE, measured)
        trainer = make_trainer(f"{job}/checkpoints", small_recipe(f"run.precision={found.name}", *AUGMENT), logger)
        if logger.cut < 9:
            with pytest.raises(KeyboardInterrupt):
                trainer.run()
        else:
            trainer.run()
        return found, weights(trainer)

    straight = attempt("straight", measure, Power())[1]
    attempt("cut", measure, Power(5))
    resumed, ended = attempt("cut", other, Power())
    assert resumed == Precision(name, "this job began with it")
    for key, tensor in straight.items():
        assert torch.equal(tensor, ended[key]), key


def test_a_job_that_was_killed_before_its_first_checkpoint_goes_on_as_it_began(tmp_path: Path) -> None:
    assert job_precision(new_job(tmp_path), ALONE, faster).name == "bfloat16"
    assert job_precision(new_job(tmp_path), ALONE, not_measured).name == "bfloat16"


def test_a_job_from_before_there_was_a_choice_goes_on_in_float32(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        make_trainer("job/checkpoints", small_recipe(), Power(5)).run()
    assert job_precision(new_job(tmp_path / "job"), ALONE, not_measured).name == "float32"
    assert kept(open_store(str(tmp_path / "job")), FILE) is not None


def test_a_recipe_that_says_it_is_not_asked_twice(tmp_path: Path) -> None:
    job = new_job(tmp_path, "", "run.precision=bfloat16")
    assert job_precision(job, ALONE, not_measured) == Precision("bfloat16", "the recipe says so")


def test_a_deterministic_job_computes_in_float32(tmp_path: Path) -> None:
    assert job_precision(new_job(tmp_path, "", "run.deterministic=true"), ALONE, not_measured).name == "float32"


def test_a_choice_changes_no_digest(tmp_path: Path, shards: str) -> None:
    job = new_job(tmp_path, shards)
    objective, before = objective_for(job, read_manifest(shards), ALONE.device), job.recipe.digest()
    objective.compute_in("bfloat16")
    assert objective.recipe.run.precision == "bfloat16"
    assert job.recipe.digest() == before


CASES: list[tuple[list[tuple[float, float]], list[bool], str]] = [
    ([(2.0, 1.0), (1.0, 2.0)], [True, True], "float32"),  # the first rank would wait for the second
    ([(2.0, 1.0), (1.0, 1.2)], [True, True], "bfloat16"),  # the second is slower, but nobody waits for it
    ([(2.0, 1.0), (2.0, 1.0)], [True, False], "float32"),
]
"""Seconds in float32 and bfloat16 of two ranks, whether they have instructions for bfloat16, and what both compute in."""


def choose_as_rank(folder: str, rank: int) -> None:
    """Be a rank that measures what each case says; leave what it computes in, at first and when it is asked again."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"}
    os.environ |= {dist.MEETING_FILE: f"{folder}/meeting", "CUDA_VISIBLE_DEVICES": ""}
    torch.set_num_threads(1)
    world, found = dist.start(), []
    for number, (times, there, _) in enumerate(CASES):
        precision.has_bfloat16 = functools.partial(lambda here, device: here, there[rank])
        job = new_job(Path(folder, str(number)))
        found.append(job_precision(job, world, functools.partial(times.__getitem__, rank)).name)
        assert job_precision(job, world, not_measured).name == found[-1]
    Path(folder, f"rank-{rank}").write_text(" ".join(found))
    dist.stop()
    os._exit(0)  # see the end of `vitseg.training.worker`


def test_all_ranks_compute_alike(tmp_path: Path) -> None:
    ranks = [STARTED.Process(target=choose_as_rank, args=(str(tmp_path), rank)) for rank in (0, 1)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
        assert rank.exitcode == 0
    wanted = " ".join(name for _, _, name in CASES)
    assert [(tmp_path / f"rank-{rank}").read_text() for rank in (0, 1)] == [wanted, wanted]


def test_a_rank_computes_in_what_its_job_chose_and_says_so(
    shards: str, tmp_path: Path, sqlite: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = tracking.start_run("job", {}, {})
    job = new_job(tmp_path / "job", shards, "run.epochs=1", run_id=run_id)
    write_job(job)
    keep(open_store(job.folder), FILE, Precision("bfloat16", "it was measured"))
    train_rank(job.folder, ALONE)
    assert "computing in bfloat16: this job began with it" in capsys.readouterr().out
    assert MlflowClient().get_run(run_id).data.tags["vitseg.precision"] == "bfloat16"
    checkpoint = newest_checkpoint(open_store(job.checkpoints))
    assert checkpoint is not None
    assert checkpoint.state["recipe"]["run"]["precision"] == "bfloat16"
    history = json.loads(Path(job.folder, "history.json").read_text())
    single = replace(job, folder=str(tmp_path / "single"), recipe=small_recipe("run.epochs=1"))
    write_job(single)
    train_rank(single.folder, ALONE)
    other = json.loads(Path(single.folder, "history.json").read_text())
    assert history[0]["val/loss"] == pytest.approx(other[0]["val/loss"], rel=0.01)
    assert history[0]["val/loss"] != other[0]["val/loss"]


@pytest.mark.parametrize("settings", [[], ["model.target=rgb"], ["model.decoder=spiral"], [MASKED]], ids=str)
def test_a_measurement_leaves_weights_gradients_and_random_numbers_alone(
    shards: str, tmp_path: Path, settings: list[str]
) -> None:
    task = MASKED if MASKED in settings else SEGMENTATION
    overrides = [*AUGMENT, "model.dropout=0.1", "masked.decoder_width=32", *(one for one in settings if "=" in one)]
    objective = objective_for(new_job(tmp_path, shards, *overrides, task=task), read_manifest(shards), ALONE.device)
    before = {name: tensor.clone() for name, tensor in objective.model.state_dict().items()}
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    assert min(time_both(training_pass(objective))) > 0
    assert torch.equal(torch.rand(3), expected)
    assert objective.model.training
    assert all(parameter.grad is None for parameter in objective.model.parameters())
    for name, tensor in objective.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_pretraining_validates_in_what_it_is_trained_in(shards: str, tmp_path: Path) -> None:
    manifest = read_manifest(shards)
    job = new_job(tmp_path, shards, "masked.decoder_width=32", task=MASKED)
    objective = objective_for(job, manifest, ALONE.device)
    batches = Batches(shards, manifest, "val", batch_size=8, shuffle=False, drop_last=False)
    losses = []
    for name in ("float32", "bfloat16"):
        objective.compute_in(name)
        losses.append(objective.validate(objective.model, batches, lambda: None)["val/loss"])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


def test_bfloat16_is_as_accurate_as_float32(make_trainer: MakeTrainer) -> None:
    found = {}
    for name in ("float32", "bfloat16"):
        settings = ["run.epochs=20", "run.evaluate_epochs=20", "run.checkpoint_steps=1000"]
        recipe = small_recipe(*settings, "optimizer.learning_rate=0.01", f"run.precision={name}")
        trainer = make_trainer(name, recipe)
        found[name] = trainer.run()[-1]["val/miou"]
        for other in ("float32", "bfloat16"):  # of one model
            evaluation = evaluate_batches(
                trainer.model, trainer.validation.epoch(0), trainer.objective.criterion, precision=other
            )
            assert evaluation.scores.miou == pytest.approx(found[name], abs=0 if other == name else 0.01)
    assert found["float32"] > 0.3
    assert found["bfloat16"] != found["float32"]
    assert found["bfloat16"] == pytest.approx(found["float32"], abs=0.01)
