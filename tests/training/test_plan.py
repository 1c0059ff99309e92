"""What can't be trained is refused before anything starts."""

import dataclasses

import pytest

from vitseg.config import load_recipe
from vitseg.data.manifest import Manifest, ShardInfo, Split
from vitseg.errors import DataError, UsageError
from vitseg.labels import train_classes
from vitseg.training.job import Job
from vitseg.training.plan import check


def manifest(**samples: int) -> Manifest:
    splits = {
        name: Split(count, (0,) * 19, (ShardInfo(f"{name}.tar", "0" * 64, 1, count),))
        for name, count in samples.items()
    }
    return Manifest(fingerprint="f" * 64, created="now", image_size=(8, 8), classes=train_classes(), splits=splits)


@pytest.fixture
def job() -> Job:
    return Job("job", "s3://bucket/shards", "f" * 64, load_recipe("tiny", overrides=["run.epochs=3"]), run_id="run1")


def test_a_job_that_can_be_trained_passes(job: Job) -> None:
    check(job, manifest(train=16, val=1), world_size=4)


@pytest.mark.parametrize("samples", [{"train": 16}, {"val": 16}, {"train": 16, "val": 0}])
def test_both_splits_are_needed(job: Job, samples: dict[str, int]) -> None:
    with pytest.raises(DataError, match="needs both train and val"):
        check(job, manifest(**samples), world_size=1)


def test_changed_data_is_another_job(job: Job) -> None:
    with pytest.raises(DataError, match="changed since the job was planned"):
        check(dataclasses.replace(job, fingerprint="0" * 64), manifest(train=16, val=1), world_size=1)


def test_a_batch_must_be_shared_evenly(job: Job) -> None:
    with pytest.raises(UsageError, match="make it a multiple of 3"):
        check(job, manifest(train=16, val=1), world_size=3)
    accumulating = dataclasses.replace(
        job, recipe=load_recipe(overrides=["data.batch_size=16", "optimizer.accumulate=8"])
    )
    check(accumulating, manifest(train=16, val=1), world_size=2)
    with pytest.raises(UsageError, match="make it a multiple of 32"):
        check(accumulating, manifest(train=16, val=1), world_size=4)
