"""The same command finds the same job: started, gone on with, or finished. Without a server of Prefect's."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from flows.tasks import plan_training as module
from tests.training.conftest import small_layers, small_recipe
from vitseg.config import load_layers
from vitseg.data.manifest import read_manifest
from vitseg.errors import UsageError
from vitseg.labels import Label
from vitseg.model.bundle import save_bundle
from vitseg.model.segmenter import build_model
from vitseg.registry import tracking, versions
from vitseg.storage import open_store
from vitseg.training import batch_size
from vitseg.training.batch_size import Measured, Trial
from vitseg.training.job import MASKED, SEGMENTATION, Job, finish_job, read_job
from vitseg.training.nodes import Nodes


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    heard: list[str] = []
    monkeypatch.setattr(module, "note", heard.append)
    return heard


def plan(shards: str, kind: str = SEGMENTATION, **options: Any) -> Job:
    given = {"name": "streets", "resume": True, **options}
    return module.plan_training.fn(shards, small_layers("run.seed=71"), Nodes(), kind=kind, **given)


@pytest.mark.parametrize("kind", [SEGMENTATION, MASKED])
def test_a_job_has_one_run_until_it_is_started_over(shards: str, sqlite: str, notes: list[str], kind: str) -> None:
    job = plan(shards, kind, resume=False)
    assert read_job(job.folder) == job
    run = tracking.MlflowClient().get_run(job.run_id)
    assert run.info.run_name == f"streets {job.name}"
    assert run.data.params["run.seed"] == "71"
    assert run.data.tags["vitseg.job"] == job.folder
    assert run.data.tags.get("vitseg.task") == (MASKED if kind == MASKED else None)
    open_store(job.checkpoints).write("step", b"x")
    assert plan(shards, kind) == job
    assert notes == [f"going on with an unfinished job in {job.folder}"]
    again = plan(shards, kind, resume=False)
    assert again.run_id != job.run_id
    assert not list(open_store(job.checkpoints).list())


@pytest.mark.parametrize("kind", [SEGMENTATION, MASKED])
def test_a_batch_is_chosen_once_a_job_and_told_in_one_line(
    shards: str, sqlite: str, notes: list[str], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []

    def measure(job: Job, nproc: int, first: int, largest: int) -> Measured:
        measured.append(nproc)
        return Measured([Trial(4, 50.0, 2**29, 2**33)], "memory")

    monkeypatch.setattr(batch_size, "measure_apart", measure)
    layers = small_layers("run.seed=72", "optimizer.learning_rate=0.004", "data.batch_size=auto")

    def plan(nproc: int, resume: bool = True) -> Job:
        return module.plan_training.fn(shards, layers, Nodes(nproc), name="streets", resume=resume, kind=kind)

    job = plan(2, resume=False)
    assert notes[1:] == [
        "data.batch_size=8 (50.0 images/s a rank, on one device like the others; 0.50 of 8.00 GiB; twice as many would not "
        "fit), optimizer.learning_rate=0.004 (kept, for you set it)"
    ]
    params = tracking.MlflowClient().get_run(job.run_id).data.params
    assert params["data.batch_size"] == "8"
    assert params["data.batch_size.chosen"].startswith("8 (50.0 images/s")
    assert (plan(1), plan(4), measured) == (job, job, [2])
    with pytest.raises(UsageError, match="--no-resume"):
        plan(3)
    done = finish_job(job, {"encoder": job.encoder, "model_uri": "models:/streets/1"})
    monkeypatch.setattr(module.versions, "is_version_of", lambda *_: True)
    open_store(job.encoder).write("config.json", b"{}")
    assert plan(3) == done  # there is nothing to do for them
    plan(1, resume=False)
    assert measured == [2, 1]


def test_a_finished_pretraining_is_finished_as_long_as_its_encoder_is_there(
    shards: str, sqlite: str, notes: list[str]
) -> None:
    job = plan(shards, MASKED, resume=False)
    open_store(job.encoder).write("config.json", b"{}")
    done = finish_job(job, {"encoder": job.encoder})
    assert plan(shards, MASKED) == done
    open_store(job.encoder).delete("config.json")
    assert plan(shards, MASKED) == job
    assert notes == [f"trained already, in {job.folder}: only what follows is left"]


def test_weights_to_start_from_are_kept_with_the_job(
    shards: str, sqlite: str, notes: list[str], tmp_path: Path
) -> None:
    manifest = read_manifest(shards)
    model = build_model(small_recipe().model, manifest.image_size, len(manifest.classes), seed=3)
    save_bundle(tmp_path / "bundle", model, manifest.classes)
    job = plan(shards, init=str(tmp_path / "bundle"), resume=False)
    assert open_store(job.folder).stat("init.safetensors")
    assert tracking.MlflowClient().get_run(job.run_id).data.params["init.sha256"] == job.init_sha256
    assert notes[0].startswith(f"starting from {tmp_path / 'bundle'}: ")


def test_published_weights_are_recorded_with_the_run(
    shards: str, sqlite: str, notes: list[str], published: Path
) -> None:
    (published.parent / "config.json").write_text('{"license": "cc-by-nc-4.0"}')
    layers = load_layers("tiny", None, ["model.fine_width=32"])
    job = module.plan_training.fn(shards, layers, Nodes(), name="streets", resume=False, init=str(published))
    params = tracking.MlflowClient().get_run(job.run_id).data.params
    assert params["init.origin.license"] == "cc-by-nc-4.0"
    assert params["init.origin.sha256"] == hashlib.sha256(published.read_bytes()).hexdigest()
    assert params["init.origin.family"] == job.origin.family != ""
    assert params["model.patch_size"] == "16"
    assert [line for line in notes if "not a permissive one" in line]
    assert read_job(job.folder) == job


def test_other_classes_ids_and_sizes_than_the_champions_are_told_before_training(
    shards: str, sqlite: str, notes: list[str], tmp_path: Path
) -> None:
    manifest = read_manifest(shards)
    road, sidewalk, *rest = manifest.classes
    classes = (sidewalk, road, Label("kerb", (1, 2, 3), 77), *rest[2:])
    classes = tuple(dataclasses.replace(label, train_id=place) for place, label in enumerate(classes))
    save_bundle(tmp_path / "bundle", build_model(small_recipe().model, (16, 32), len(classes), seed=3), classes)
    run_id = tracking.start_run("by hand", {}, {})
    versions.register(tmp_path / "bundle", name="streets", run_id=run_id, tags={}, description="")
    MlflowClient().set_registered_model_alias("streets", "champion", "1")
    plan(shards, resume=False)
    known = "the champion models:/streets/1"
    changed = [label.name for label in manifest.classes if label not in classes and label not in rest[:2]]
    assert changed[:3] == ["road", "sidewalk", "fence"]
    assert notes == [
        f"{known} does not know: building, wall; they are learned and measured, but not compared with it",
        f"{known} also knows: kerb; no mask of the new version will show them",
        "a class that got another name counts as a removed and an added one: to keep it, keep its name",
        f"{known} has other ids or colors for: {', '.join(changed[:20])}; new masks have those of these shards",
        f"{known} sees images of 32×16, these are 64×32: each version is measured at its own size",
    ]
    notes.clear()
    versions.set_tags(versions.get_version("streets", "1"), {"sha256": "0" * 64})
    plan(shards, resume=False)
    assert len(notes) == 1
    assert notes[0].startswith("the champion can't be read")
