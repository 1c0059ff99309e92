"""A job is found again by what it is, and read back as it was."""

import dataclasses
import json
from pathlib import Path

import pytest

from vitseg.config import load_recipe
from vitseg.errors import DataError
from vitseg.training.job import Job, finish_job, forget_job, job_folder, read_job, write_job

RECIPE = load_recipe("tiny", overrides=["run.epochs=3"])


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(str(tmp_path / "job"), "s3://bucket/shards", "f" * 64, RECIPE, run_id="run1")


def test_the_same_data_and_recipe_have_the_same_folder() -> None:
    folder = job_folder("s3://bucket/shards/", "0123456789abcdef", RECIPE)
    assert folder == job_folder(
        "s3://bucket/shards", "0123456789abcdef", load_recipe("tiny", overrides=["run.epochs=3"])
    )
    assert folder.startswith("s3://bucket/shards/_vitseg/training/01234567-")
    others = {
        job_folder("s3://bucket/shards", "f" * 16, RECIPE),
        job_folder("s3://bucket/shards", "0123456789abcdef", load_recipe("tiny")),
    }
    assert len(others - {folder}) == 2


def test_a_job_is_read_as_it_was_written(job: Job) -> None:
    assert read_job(job.folder) is None
    write_job(job)
    assert read_job(job.folder) == job
    assert job.checkpoints == f"{job.folder}/checkpoints"


def test_a_choice_changes_the_recipe_and_not_what_finds_the_job(job: Job) -> None:
    chosen = job.choose("data.batch_size", 32, "it fits").choose("optimizer.learning_rate", 0.008, "twice")
    assert (chosen.recipe.data.batch_size, chosen.recipe.optimizer.learning_rate) == (32, 0.008)
    assert chosen.recipe_digest == job.recipe_digest == RECIPE.digest() != chosen.recipe.digest()
    write_job(chosen)
    assert read_job(job.folder) == chosen
    other = dataclasses.replace(job, recipe=load_recipe("tiny", overrides=["run.epochs=3", "run.log_steps=9"]))
    again = other.choose_as(chosen)
    assert again.recipe == load_recipe(
        "tiny",
        overrides=["run.epochs=3", "run.log_steps=9", "data.batch_size=32", "optimizer.learning_rate=0.008"],
    )
    assert (again.chosen, again.recipe_digest) == (chosen.chosen, chosen.recipe_digest)


def test_a_job_of_an_older_version_is_read(job: Job) -> None:
    write_job(job)
    file = Path(job.folder, "job.json")
    data = json.loads(file.read_bytes())
    del data["chosen"], data["asked"]
    data["recipe"]["model"]["query_key_norm"] = False  # a key that is gone
    file.write_text(json.dumps(data))
    assert read_job(job.folder) == job


def test_a_finished_job_says_so(job: Job) -> None:
    finished = finish_job(job, {"version": 3, "metrics": {"miou": 0.5}})
    assert read_job(job.folder) == finished
    assert finished == dataclasses.replace(job, result={"version": 3, "metrics": {"miou": 0.5}})


def test_a_forgotten_job_starts_over(job: Job) -> None:
    write_job(job)
    Path(job.checkpoints).mkdir()
    Path(job.checkpoints, "step").write_bytes(b"x")
    forget_job(job.folder)
    assert read_job(job.folder) is None
    assert not [path for path in Path(job.folder).rglob("*") if path.is_file()]


def test_no_secret_lands_in_a_job(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2-hunter2")
    write_job(job)
    assert "hunter2" not in Path(job.folder, "job.json").read_text()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: json.dumps(data).encode()[:-9],
        lambda data: b"\xff\xfe",
        lambda data: b"[" * 100_000,
        lambda data: b"[]",
        lambda data: json.dumps({**data, "schema": 2}).encode(),
        lambda data: json.dumps({**data, "recipe": {"run": {"epoch": 3}}}).encode(),
        lambda data: json.dumps({**data, "result": 5}).encode(),
        lambda data: json.dumps({**data, "chosen": 5}).encode(),
        *(
            lambda data, gone=key: json.dumps({k: v for k, v in data.items() if k != gone}).encode()
            for key in ("recipe", "shards", "result")
        ),
    ],
)
def test_a_damaged_job_is_refused_in_one_line(job: Job, damage) -> None:
    write_job(job)
    file = Path(job.folder, "job.json")
    file.write_bytes(damage(json.loads(file.read_bytes())))
    with pytest.raises(DataError) as caught:
        read_job(job.folder)
    assert str(file) in str(caught.value)
    assert "remove the folder to train anew" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
