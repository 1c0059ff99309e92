"""What a command has to do for a job; what can't be trained is refused before anything starts."""

import dataclasses
from pathlib import Path

import pytest
from safetensors.torch import load, save

from vitseg.config import load_layers, load_recipe
from vitseg.data.manifest import Manifest, ShardInfo, Split
from vitseg.errors import DataError, UsageError
from vitseg.labels import train_classes
from vitseg.model.bundle import save_bundle
from vitseg.model.segmenter import build_model
from vitseg.model.transfer import Transfer
from vitseg.origin import Origin
from vitseg.training.job import MASKED, SEGMENTATION, Job, write_job
from vitseg.training.plan import NewJob, check, new_job, plan_job
from vitseg.training.start import PublishedStart


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


@pytest.mark.parametrize(
    ("found", "run_is_there", "delivered", "resume", "action"),
    [
        ({}, True, True, True, "start"),
        ({"run_id": "run1"}, True, True, True, "resume"),
        ({"run_id": "run1"}, False, True, True, "start"),  # its run was deleted
        ({"run_id": "run1"}, True, True, False, "start"),
        ({"run_id": "run1", "result": {"version": "1"}}, True, True, True, "nothing"),
        ({"run_id": "run1", "result": {"version": "1"}}, True, False, True, "deliver"),
        ({"run_id": "run1", "result": {"version": "1"}}, True, True, False, "start"),
        ({"run_id": "run1", "result": {"stopped": "minutes"}, "max_minutes": 1.0}, True, True, True, "resume"),
    ],
)
def test_what_is_left_to_do_for_a_job(
    tmp_path: Path, found: dict, run_is_there: bool, delivered: bool, resume: bool, action: str
) -> None:
    fresh = Job(str(tmp_path), "shards", "f" * 64, load_recipe("tiny", overrides=["run.log_steps=3"]))
    before = dataclasses.replace(fresh, recipe=load_recipe("tiny"), **found)
    if found:
        write_job(before)
    decided, job = plan_job(
        fresh, resume=resume, max_minutes=2.0, run_exists=lambda run: run_is_there, is_delivered=lambda job: delivered
    )
    assert decided == action
    assert job.recipe.run.log_steps == 3  # what changes no weights is that of now
    assert job.max_minutes == 2.0
    assert dict(job.result) == (before.result if action == "nothing" else {})


@pytest.mark.parametrize("world_size", [1, 5])
def test_what_is_chosen_for_a_new_job_stays(tmp_path: Path, world_size: int) -> None:
    """On 5 ranks, too, which could not share the preset's batch of 8."""
    layers = load_layers("tiny", None, ["data.batch_size=auto"])
    fresh, request, *_ = new_job(str(tmp_path), manifest(train=400, val=1), layers, world_size)
    assert fresh.folder.endswith(f"-{request.digest()}")
    batches = iter([40, 80])

    def plan(resume: bool) -> Job:
        _, job = plan_job(
            fresh, choose=lambda job: job.choose("data.batch_size", next(batches), "fits"), resume=resume,
            max_minutes=None, run_exists=lambda run: True, is_delivered=lambda job: True,
        )  # fmt: skip
        write_job(job)
        return job

    assert [plan(resume).recipe.data.batch_size for resume in (True, True, False, True)] == [40, 40, 80, 80]
    assert plan(resume=True).recipe_digest == request.digest()


def test_a_chosen_batch_needs_as_many_ranks_as_can_share_it(job: Job) -> None:
    chosen = job.choose("data.batch_size", 16, "fits")
    check(chosen, manifest(train=16, val=1), world_size=2)
    with pytest.raises(UsageError, match=r"by 3 ranks × 1 parts: go on with as many .* --no-resume"):
        check(chosen, manifest(train=16, val=1), world_size=3)
    with pytest.raises(UsageError, match="only 16 training samples: take fewer ranks or parts"):
        new_job("shards", manifest(train=16, val=1), load_layers("tiny", None, ["data.batch_size=auto"]), 17)


@pytest.mark.parametrize("encoder", ["frozen", "1"])
def test_an_encoder_that_does_not_learn_needs_a_start(encoder: str) -> None:
    layers = load_layers("tiny", None, [f"model.encoder={encoder}"])
    with pytest.raises(UsageError, match=f"model.encoder = {encoder}: without --init"):
        new_job("shards", manifest(train=16, val=1), layers, 1)
    with pytest.raises(UsageError, match="leave out model"):
        new_job("shards", manifest(train=16, val=1), layers, 1, task=MASKED)


def test_pairs_of_images_are_learned_as_colors() -> None:
    pairs = dataclasses.replace(manifest(train=16, val=1), classes=(), targets="images")
    job, _, initial, _ = new_job("shards", pairs, load_layers("tiny"), 1)
    assert (job.recipe.model.target, job.recipe.model.pixels, initial) == ("rgb", "fixed", None)
    assert new_job("shards", pairs, load_layers("tiny"), 1, task=MASKED).job.recipe == load_recipe("tiny")


def test_pairs_of_images_need_an_encoder_that_sees_brightness(published: Path, tmp_path: Path) -> None:
    pairs = dataclasses.replace(manifest(train=32, val=1), classes=(), targets="images", image_size=(32, 32))
    recipe = load_recipe("small", overrides=["model.blocks=1", "model.encoder_projection=24", "model.fine_width=32"])
    save_bundle(tmp_path / "own", build_model(recipe.model, (32, 32), 19, seed=1), train_classes())
    with pytest.raises(UsageError, match=r"relative to its own brightness.* model.pixels=fixed"):
        new_job("shards", pairs, load_layers("tiny"), 1, init=str(tmp_path / "own"))
    found = new_job("shards", pairs, load_layers("tiny"), 1, init=str(published)).job.recipe
    preset = load_recipe("tiny")  # colors have no Dice loss, and those of the target would not follow the photograph's
    assert (found.model.target, found.loss, found.augment) == ("rgb", preset.loss, preset.augment)


def test_a_start_decides_the_encoder_and_its_recipe(published: Path, tmp_path: Path) -> None:
    overrides = ["model.heads=2", "model.head_width=8", "optimizer.learning_rate=0.5"]
    data = dataclasses.replace(manifest(train=32, val=1), image_size=(33, 50))

    def plan(*more: str, init: str = str(published)) -> NewJob:
        return new_job(str(tmp_path), data, load_layers("tiny", None, [*overrides, *more]), 1, init=init)

    job, _, initial, notes = plan()
    assert initial
    arch, preset = job.recipe.model, load_recipe("tiny").model
    assert (arch.patch_size, arch.blocks, arch.mlp_units, arch.heads, arch.pixels) == (16, 1, (32, 24), 2, "fixed")
    assert (arch.decoder, arch.fine_width) == (preset.decoder, preset.fine_width)
    assert job.recipe.optimizer.learning_rate == 0.5
    assert job.recipe.optimizer.weight_decay == load_layers("tiny").request({}).recipe.optimizer.weight_decay
    assert (job.init, job.init_sha256, job.origin.address) == (str(published), initial.sha256, str(published))
    assert notes[0].startswith(f"starting from {published}: the encoder of ")
    assert "license unknown" in notes[3]
    assert notes[4] == "the network takes 48×32, a multiple of patch size 16: photographs of 50×33 are resized to it"
    assert load(initial.data)["encoder.embedding.position"].shape == (2 * 3, 24)
    assert plan().job == job
    assert plan("run.log_steps=9").job.folder == job.folder
    assert (
        len({job.folder, plan("model.heads=1", "model.head_width=16").job.folder, plan("run.epochs=9").job.folder}) == 3
    )
    with pytest.raises(UsageError, match=rf"--init {published}: model.blocks is set to 3, but its encoder has 1"):
        plan("model.blocks=3")


def test_a_retraining_finds_its_version_whatever_that_started_from(published: Path, tmp_path: Path) -> None:
    own = ["model.heads=2", "model.head_width=8"]
    data = dataclasses.replace(manifest(train=32, val=1), image_size=(32, 64))
    started, fresh = (
        new_job(str(tmp_path), data, load_layers("tiny", None, own), 1, init=init).job for init in (str(published), "")
    )
    assert started.recipe.digest() != fresh.recipe.digest()
    assert started.recipe_digest == fresh.recipe_digest == load_recipe("tiny", overrides=own).digest()
    last = load_layers("tiny", None, [*own, "model.fine_patch=16"])  # which the preset's own encoder could not have
    assert new_job(str(tmp_path), data, last, 1, init=str(published)).job.recipe.model.fine_patch == 16


def test_the_job_of_a_start_has_the_same_name_whatever_the_last_bits_of_its_fitted_weights_are(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = dataclasses.replace(manifest(train=32, val=1), image_size=(32, 64))

    def folder() -> str:
        return new_job(str(tmp_path), data, load_layers("tiny"), 1, init=str(published)).job.folder

    before = folder()
    fit = PublishedStart.fit
    with monkeypatch.context() as patch:  # as on another processor
        patch.setattr(PublishedStart, "fit", lambda *given: _with_other_bits(fit(*given)))
        assert folder() == before
    tensors = load(published.read_bytes())
    tensors["norm.bias"] = tensors["norm.bias"] + 1
    published.write_bytes(save(tensors))
    assert folder() != before


def _with_other_bits(taken: Transfer) -> Transfer:
    return Transfer({name: tensor * (1 + 2**-23) for name, tensor in taken.tensors.items()}, taken.taken)


def test_weights_that_are_fitted_anew_are_those_of_the_new_job(published: Path, tmp_path: Path) -> None:
    data = dataclasses.replace(manifest(train=32, val=1), image_size=(32, 64))
    fresh = new_job(str(tmp_path), data, load_layers("tiny"), 1, init=str(published)).job
    write_job(dataclasses.replace(fresh, run_id="deleted", init_sha256="0" * 64))  # of another processor

    def plan(exists: bool) -> tuple[str, Job]:
        return plan_job(
            fresh, resume=True, max_minutes=None, run_exists=lambda run_id: exists, is_delivered=lambda job: False
        )

    for exists, action, kept in ((True, "resume", "0" * 64), (False, "start", fresh.init_sha256)):
        found, job = plan(exists)
        assert (found, job.init_sha256) == (action, kept)


def test_a_network_of_ours_goes_on_as_long_as_its_preset_says(tmp_path: Path) -> None:
    recipe = load_recipe("small", overrides=["model.blocks=1", "model.encoder_projection=24", "model.fine_width=32"])
    save_bundle(tmp_path, build_model(recipe.model, (32, 32), 19, seed=1), train_classes())
    data = dataclasses.replace(manifest(train=32, val=1), image_size=(32, 32))
    found = new_job("shards", data, load_layers("tiny"), 1, init=str(tmp_path)).job.recipe
    preset = load_recipe("tiny")
    assert (found.data, found.run) == (preset.data, preset.run)
    assert found.optimizer.encoder_rate > 0
    assert found.model.depths == 1  # those that its decoder knows


def test_an_encoder_of_ours_is_taken_with_its_pixels(tmp_path: Path) -> None:
    recipe = load_recipe("small", overrides=["model.blocks=1", "model.encoder_projection=24", "model.fine_width=32"])
    save_bundle(tmp_path, build_model(recipe.model, (32, 32), 19, seed=1), train_classes())
    data = dataclasses.replace(manifest(train=32, val=1), image_size=(32, 32))
    job, _, initial, _ = new_job("shards", data, load_layers("vit-base"), 1, init=str(tmp_path))
    assert initial
    assert job.recipe.model.pixels == "image" != load_recipe("vit-base").model.pixels
    assert (job.recipe.model.encoder_projection, job.recipe.model.fine_width) == (24, 256)
    assert "encoder.embedding.position" in load(initial.data)
    assert job.origin == Origin()


@pytest.mark.parametrize("task", [SEGMENTATION, MASKED])
def test_images_that_patches_do_not_fill_are_resized_and_it_is_told(task: str) -> None:
    data = dataclasses.replace(manifest(train=16, val=1), image_size=(30, 30))
    notes = new_job("shards", data, load_layers("tiny"), 1, task=task).notes
    assert notes == ("the network takes 32×32, a multiple of patch size 8: photographs of 30×30 are resized to it",)
