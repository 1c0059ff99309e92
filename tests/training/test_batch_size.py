"""`data.batch_size=auto`: the choice fits, fills the device, leaves enough steps, and stays what it is."""

import dataclasses
import json
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.training.conftest import small_recipe
from vitseg.data.loader import Batch, Batches
from vitseg.data.manifest import read_manifest
from vitseg.errors import TrainingError
from vitseg.model.encoder import VisionTransformer
from vitseg.training import batch_size
from vitseg.training.batch_size import (
    GAIN,
    MEMORY_SHARE,
    STEPS,
    Measured,
    Trial,
    attempt_steps,
    choose_batch,
    choose_trial,
    climb,
    free_memory,
    measure_apart,
    part_bounds,
)
from vitseg.training.job import MASKED, SEGMENTATION, Job
from vitseg.training.nodes import Nodes
from vitseg.training.step import Learner, StepResult

CPU = torch.device("cpu")


def device(images: int, *, full: int, memory: int) -> Trial:
    """Take steps on a device that is full with so many images, each of which takes a unit of its memory."""
    if images > memory:
        raise torch.OutOfMemoryError
    return Trial(images, 100.0 * min(images, full), images, memory)


def trials_of(first: int, largest: int, full: int, memory: int, may_fail: bool = True) -> tuple[list[Trial], str]:
    found: list[Trial] = []
    end = climb(
        lambda images: device(images, full=full, memory=memory),
        first, largest, on_trial=found.append, may_fail=may_fail,
    )  # fmt: skip
    return found, end


@pytest.fixture
def job(shards: str, tmp_path: Path) -> Job:
    recipe = small_recipe("data.batch_size=2", "optimizer.learning_rate=0.004")
    return Job(str(tmp_path / "job"), shards, read_manifest(shards).fingerprint, recipe, asked="0123456789ab")


def of_samples(job: Job, count: int) -> Any:
    manifest = read_manifest(job.shards)
    train = dataclasses.replace(manifest.splits["train"], samples=count)
    return dataclasses.replace(manifest, splits={**manifest.splits, "train": train})


@given(
    st.sampled_from([1, 2, 8, 16, 24, 64]), st.integers(1, 12), st.integers(1, 10**5), st.integers(1, 400),
    st.integers(1, 3000), st.booleans(),
)  # fmt: skip
def test_a_choice_fits_fills_the_device_and_leaves_enough_steps(
    preset: int, share: int, samples: int, full: int, memory: int, may_fail: bool
) -> None:
    samples = max(samples, share)
    first, largest = part_bounds(preset, share, samples)
    assert 1 <= first <= largest
    assert share * largest <= max(share, min(samples, max(preset, samples // STEPS)))
    found, end = trials_of(first, largest, full, memory, may_fail)
    if not found:
        assert MEMORY_SHARE * memory < 1
        return
    chosen = choose_trial(found)
    assert chosen in found
    assert chosen == choose_trial(list(reversed(found)))
    assert chosen.memory <= MEMORY_SHARE * memory
    assert chosen.images <= largest
    best = max(trial.images_per_second for trial in found)
    assert GAIN * chosen.images_per_second > best
    assert not [trial for trial in found if trial.images < chosen.images and GAIN * trial.images_per_second > best]
    if chosen.images < first:  # smaller than the preset's batch only where that has no room
        assert 2 * chosen.images > MEMORY_SHARE * memory
    assert end != "data" or 2 * found[-1].images > largest


@pytest.mark.parametrize(
    ("first", "largest", "full", "memory", "may_fail", "images", "end"),
    [
        (8, 512, 64, 1000, True, [8, 16, 32, 64, 128], "speed"),
        (8, 64, 64, 1000, True, [8, 16, 32, 64], "data"),
        (8, 512, 512, 40, True, [8, 16, 32], "memory"),
        (8, 512, 512, 33, True, [8, 16], "memory"),  # 32 run, but without a margin
        (8, 512, 512, 5, True, [4], "memory"),
        (8, 512, 512, 1, True, [], "memory"),
    ],
)
def test_trials_double_until_it_does_not_fit_or_pay(
    first: int, largest: int, full: int, memory: int, may_fail: bool, images: list[int], end: str
) -> None:
    found, why = trials_of(first, largest, full, memory, may_fail)
    assert ([trial.images for trial in found], why) == (images, end)


def test_nothing_is_tried_that_may_not_fit_where_the_system_would_kill_for_it() -> None:
    tried: list[int] = []

    def attempt(images: int) -> Trial:
        tried.append(images)
        return device(images, full=512, memory=40)

    for may_fail in (True, False):
        assert climb(attempt, 8, 512, on_trial=lambda trial: None, may_fail=may_fail) == "memory"
    assert tried == [8, 16, 32, 64, 8, 16, 32]


def test_trials_end_before_they_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 25))
    monkeypatch.setattr(batch_size, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    found, why = trials_of(1, 512, 512, 1000)
    assert ([trial.images for trial in found], why) == (
        [1],
        "time",
    )  # 50 s with the first, and the next takes 50 s more


def test_another_error_than_of_memory_is_not_hidden() -> None:
    def fail(images: int) -> Trial:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        climb(fail, 1, 8, on_trial=lambda trial: None, may_fail=True)


def test_the_batch_is_that_of_all_ranks_and_parts_and_the_rate_goes_with_its_root(job: Job) -> None:
    asked: list[tuple[int, int, int]] = []

    def measure(job: Job, nproc: int, first: int, largest: int) -> Measured:
        asked.append((nproc, first, largest))
        return Measured(
            [Trial(images, 10.0 * images, 2**30, 2**33) for image in (1, 2) for images in (4 * image,)], "data"
        )

    twice = dataclasses.replace(job, recipe=small_recipe("optimizer.accumulate=2", "optimizer.learning_rate=0.004"))
    chosen = choose_batch(twice, of_samples(job, 3000), Nodes(2, 2, "node-0:1"), own_rate=False, measure=measure)
    assert asked == [(2, 1, 8)]  # 8 images = 4 ranks × 2 parts × 1; 3000 ÷ 32 = 93 = 4 × 2 × 11
    assert chosen.recipe.data.batch_size == 4 * 2 * 8
    assert chosen.recipe.optimizer.learning_rate == 0.01131  # 0.004 × √(64 ÷ 8)
    assert chosen.recipe_digest == job.asked  # the same request finds it again
    assert chosen.chosen["data.batch_size"] == (
        "64 (80.0 images/s a rank, on one device like the others; 1.00 of 8.00 GiB; "
        "more would leave fewer than 32 steps an epoch)"
    )
    assert chosen.chosen["optimizer.learning_rate"] == "0.01131 (the preset's 0.004 × √(64 ÷ 8))"
    own = dataclasses.replace(twice.recipe.optimizer, encoder_rate=0.001)
    slower = dataclasses.replace(twice, recipe=dataclasses.replace(twice.recipe, optimizer=own))
    slower = choose_batch(slower, of_samples(job, 3000), Nodes(2, 2, "node-0:1"), own_rate=False, measure=measure)
    assert slower.recipe.optimizer.encoder_rate == pytest.approx(0.01131 / 4, rel=1e-3)
    kept = choose_batch(twice, of_samples(job, 3000), Nodes(), own_rate=True, measure=measure)
    assert kept.recipe.optimizer.learning_rate == 0.004
    assert "kept" in kept.chosen["optimizer.learning_rate"]


def test_a_processor_is_measured_by_real_steps_in_a_process_of_its_own(job: Job) -> None:
    measured = measure_apart(job, 1, 1, 2)
    assert [trial.images for trial in measured.trials] == [1, 2] or measured.end == "time"  # on a machine that is busy
    assert measured.end in ("speed", "data", "time")
    for trial in measured.trials:
        assert trial.images_per_second > 1
        assert 2**26 < trial.memory < trial.free  # Python and torch alone take more
    assert not Path(job.folder).exists()


@pytest.mark.parametrize("settings", [[], ["model.target=rgb"], ["optimizer.accumulate=2", "optimizer.average=0.9"]])
@pytest.mark.parametrize("task", [SEGMENTATION, MASKED])
def test_a_trial_takes_whole_steps_of_a_batch_that_repeats_a_sample(
    job: Job, task: str, settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, taken = Learner.take_step, []

    def take_step(learner: Learner, batch: Batch, **options: Any) -> StepResult:
        before = [parameter.clone() for parameter in learner.model.parameters()]
        result = real(learner, batch, **options)
        changed = [not torch.equal(*pair) for pair in zip(before, learner.model.parameters(), strict=True)]
        taken.append((len(batch.images), len(result.part_losses), any(changed), result.diverged))
        return result

    monkeypatch.setattr(Learner, "take_step", take_step)
    manifest = read_manifest(job.shards)
    sample = next(iter(Batches(job.shards, manifest, "train", batch_size=2, shuffle=False).epoch(0)))
    job = dataclasses.replace(job, task=task, recipe=small_recipe("augment.rare=0.5", *settings))
    trial = attempt_steps(job, manifest, sample, CPU, 3, 2**40)
    parts = job.recipe.optimizer.accumulate
    assert taken == [(3 * parts, parts, True, False)] * 3
    assert (trial.images, trial.free) == (3, 2**40)


def test_a_trial_on_kept_features_is_of_the_decoder_alone(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = read_manifest(job.shards)
    sample = next(iter(Batches(job.shards, manifest, "train", batch_size=2, shuffle=False).epoch(0)))
    job = dataclasses.replace(job, recipe=small_recipe("model.encoder=frozen"))
    monkeypatch.setattr(VisionTransformer, "forward", lambda *_: pytest.fail("the encoder was asked"))
    assert attempt_steps(job, manifest, sample, CPU, 3, 2**40).images == 3


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function after which the measuring process runs this code instead."""
    real = batch_size.child_processes.start

    def replace(code: str) -> None:
        monkeypatch.setattr(
            batch_size.child_processes, "start",
            lambda command, *rest, **options: real([sys.executable, "-c", code], *rest, **options),
        )  # fmt: skip

    return replace


def test_what_was_measured_before_the_process_was_killed_counts(job: Job, says: Any) -> None:
    events = [
        {"event": "note", "text": "a step is one CUDA graph"},
        {"event": "trial", "images": 4, "images_per_second": 8.0, "memory": 1, "free": 9},
    ]
    lines = "\n".join(map(json.dumps, events))
    says(f"import os; print({lines!r}, flush=True); os.kill(os.getpid(), {int(signal.SIGKILL)})")
    assert measure_apart(job, 1, 4, 64) == Measured([Trial(4, 8.0, 1, 9)], "memory")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL, for example because memory ran out"),
        ("raise ValueError('no such thing')", "ValueError: no such thing"),
        ("", "not even one image fits in memory"),
    ],
)
def test_where_nothing_was_measured_one_line_says_why(job: Job, says: Any, code: str, words: str) -> None:
    says(code)
    with pytest.raises(TrainingError, match=words) as caught:
        measure_apart(job, 1, 1, 8)
    assert "set a number" in str(caught.value)


def test_ranks_share_the_memory_of_a_processor_and_a_container_has_a_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = free_memory(CPU, 1)
    assert 0.4 * memory < free_memory(CPU, 2) < 0.6 * memory
    limits = {"memory.max": "300000000", "memory.current": "100000000"}
    monkeypatch.setattr(batch_size.Path, "read_text", lambda path: limits[path.name])
    limited = free_memory(CPU, 1) - batch_size.psutil.Process().memory_info().rss
    assert abs(limited - 200_000_000) < 20_000_000
    limits["memory.max"] = "max"
    assert free_memory(CPU, 1) > 0.5 * memory


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_measured_and_given_back(job: Job) -> None:
    free = torch.cuda.mem_get_info()[0]
    measured = measure_apart(job, 1, 1, 64)
    rates = [trial.images_per_second for trial in measured.trials]
    assert len(rates) > 2
    assert rates[1] > rates[0]  # a launch costs more than an image
    assert all(0 < trial.memory < trial.free for trial in measured.trials)
    assert torch.cuda.mem_get_info()[0] > free - 2**26
