"""Pretraining in the real loop: it learns, two ranks compute what one does, and what was killed ends the same."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, load_file

from tests.training.conftest import AUGMENT, small_layers, small_recipe
from vitseg.config import load_layers, load_recipe
from vitseg.data.commit import commit
from vitseg.data.loader import Batch
from vitseg.data.manifest import read_manifest
from vitseg.data.plan import make_plan
from vitseg.data.shards import write_shard
from vitseg.data.verify import verify
from vitseg.dist import World
from vitseg.errors import UsageError
from vitseg.labels import train_classes
from vitseg.model.bundle import save_bundle
from vitseg.model.masked_autoencoder import build_masked
from vitseg.model.segmenter import build_model
from vitseg.registry import tracking
from vitseg.storage import open_store
from vitseg.synth.dataset import write_photographs
from vitseg.training.initial_weights import FILE, fit_initial
from vitseg.training.job import MASKED, Job, job_folder, read_job, write_job
from vitseg.training.launch import run_ranks
from vitseg.training.nodes import Nodes
from vitseg.training.objectives import objective_for
from vitseg.training.objectives.masked_patches import MaskedPatches
from vitseg.training.plan import new_job
from vitseg.training.start import NetworkStart
from vitseg.training.start_address import read_start
from vitseg.training.step import Learner
from vitseg.training.worker import train_rank

ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def photo_shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Pack 26 photographs of three formats, without labels, as samples of 64×32 pixels: 25 to train on."""
    source, folder = tmp_path_factory.mktemp("photographs"), str(tmp_path_factory.mktemp("photo-shards"))
    write_photographs(str(source), count=26, seed=1)
    plan = make_plan(str(source), layout="photos", size=(32, 64), shard_samples=8)
    commit(plan, [write_shard(shard, plan.options, folder) for shard in plan.shards], folder)
    return folder


def make_job(folder: Path, shards: str, *overrides: str) -> Job:
    run_id = tracking.start_run(folder.name, {}, {"vitseg.job": str(folder)})
    recipe = small_recipe("masked.decoder_width=32", *overrides)
    job = Job(str(folder), shards, read_manifest(shards).fingerprint, recipe, run_id, task=MASKED)
    write_job(job)
    return job


def losses(job: Job) -> list[float]:
    history = json.loads(Path(job.folder, "history.json").read_text())
    assert all(set(row) - {"chosen"} == {"epoch", "step", "train/loss", "val/loss"} for row in history)
    assert sum("chosen" in row for row in history) == 1
    return [row[f"{split}/loss"] for row in history for split in ("train", "val")]


def test_photographs_are_whole_shards(photo_shards: str) -> None:
    manifest = read_manifest(photo_shards)
    assert (manifest.classes, {name: split.samples for name, split in manifest.splits.items()}) == (
        (), {"train": 25, "val": 1},
    )  # fmt: skip
    report = verify(photo_shards)
    assert (report.samples, report.problems) == (26, [])
    with pytest.raises(UsageError, match="vitseg pretrain"):
        new_job(photo_shards, manifest, small_layers(), 1)


def test_two_ranks_and_a_restart_compute_what_one_does(
    photo_shards: str, tmp_path: Path, sqlite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = {name: make_job(tmp_path / name, photo_shards, *AUGMENT) for name in ("alone", "shared", "cut")}
    train_rank(jobs["alone"].folder, ALONE)
    heard: list[str] = []
    run_ranks(jobs["shared"].folder, Nodes(nproc=2), on_event=lambda event: heard.append(event["event"]), on_line=print)

    real, steps = Learner.take_step, []

    def step(self, *arguments, **options):
        if len(steps) == 5:
            raise KeyboardInterrupt
        steps.append(1)
        return real(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as cut, pytest.raises(KeyboardInterrupt):
        cut.setattr(Learner, "take_step", step)
        train_rank(jobs["cut"].folder, ALONE)
    train_rank(jobs["cut"].folder, ALONE)

    assert losses(jobs["shared"]) == pytest.approx(losses(jobs["alone"]), abs=1e-4)
    assert losses(jobs["cut"]) == losses(jobs["alone"])
    weights = [Path(jobs[name].encoder, "encoder.safetensors").read_bytes() for name in ("alone", "cut")]
    assert weights[0] == weights[1]
    assert heard.count("epoch") == 3
    assert read_job(jobs["cut"].folder) == jobs["cut"]


def test_it_learns_and_training_starts_from_it(shards: str, tmp_path: Path, sqlite: str) -> None:
    """On labeled shards, whose labels it must not look at."""
    job = make_job(tmp_path / "job", shards, "run.epochs=30", "run.panel_epochs=30")
    train_rank(job.folder, ALONE)
    found = losses(job)
    assert found[-1] < 0.9 * found[1]
    manifest = read_manifest(shards)
    for address in (job.encoder, f"runs:/{job.run_id}"):
        initial = fit_initial(read_start(address), job.recipe.model, manifest.image_size, manifest.classes)
        assert initial.taken.startswith("the encoder, nothing of the decoder; new are")
    pictures = [path.path for path in tracking.MlflowClient().list_artifacts(job.run_id, "panels")]
    assert pictures == ["panels/epoch-0030.png"]


def test_published_weights_are_trained_on_and_keep_their_origin(
    photo_shards: str, tmp_path: Path, sqlite: str, published: Path
) -> None:
    (published.parent / "LICENSE").write_text("MIT License\n")
    # Patches of 12 pixels don't fill images of 64×32.
    own = ["model.heads=2", "model.head_width=8", "model.patch_size=12", "masked.decoder_width=32", "run.epochs=2"]
    manifest = read_manifest(photo_shards)
    job, _, initial, notes = new_job(
        photo_shards, manifest, load_layers("tiny", None, own), 1, init=str(published), task=MASKED
    )
    assert initial
    preset = load_recipe("tiny")
    assert (job.recipe.data, job.recipe.augment, job.recipe.loss) == (preset.data, preset.augment, preset.loss)
    assert job.recipe.model.depths == 1
    assert notes[0] == f"starting from {published}: its encoder"
    assert notes[1].startswith("the encoder's shape is that of the start, the learning rates of transfer.toml")
    assert any("the network takes 60×36" in note for note in notes)
    run_id = tracking.start_run("goes on", {}, {"vitseg.job": job.folder})
    write_job(job := replace(job, folder=str(tmp_path / "job"), run_id=run_id))
    open_store(job.folder).write(FILE, initial.data)
    begun = objective_for(job, manifest, ALONE.device).model.encoder_bundle().tensors
    train_rank(job.folder, ALONE)
    start = read_start(job.encoder)
    assert isinstance(start, NetworkStart)
    assert (start.origin, start.origin.license) == (job.origin, "MIT License")
    assert "augment" in start.recipe  # it is still a published encoder
    norm = "encoder.norm.weight"
    assert torch.equal(begun[norm], load_file(published)["norm.weight"])
    assert 0 < (start.tensors[norm] - begun[norm]).abs().max() < 0.1  # it went on from there


def test_a_segmenters_encoder_is_trained_on_without_its_decoder(photo_shards: str, tmp_path: Path) -> None:
    recipe = small_recipe("model.fine_width=32")
    save_bundle(tmp_path, build_model(recipe.model, (32, 64), 19, seed=1), train_classes())
    manifest = read_manifest(photo_shards)
    _, _, initial, _ = new_job(photo_shards, manifest, small_layers(), 1, init=str(tmp_path), task=MASKED)
    assert initial
    assert {name.partition(".")[0] for name in load(initial.data)} == {"encoder"}
    assert "nothing of the decoder" in initial.taken


def test_photographs_are_augmented_as_the_recipe_says(shards: str, tmp_path: Path, sqlite: str) -> None:
    slow = ["run.epochs=1", "optimizer.learning_rate=1e-12"]
    kinds = {
        "plain": [],
        "scaled": ["augment.scale=[1.0, 2.0]"],
        "same": ["augment.scale=[1.0, 2.0]", "augment.rare=1.0"],
        "colored": ["augment.color=0.5"],
    }
    found = {}
    for name, values in kinds.items():
        job = make_job(tmp_path / name, shards, *slow, *values)
        train_rank(job.folder, ALONE)
        found[name] = losses(job)
    assert found["same"] == found["scaled"]  # the labels that are there choose no crops
    for name in ("scaled", "colored"):
        assert found[name][0] != pytest.approx(found["plain"][0], abs=1e-5)
        assert found[name][1] == pytest.approx(found["plain"][1], abs=1e-5)  # validation sees photographs as they are


def test_validation_always_hides_the_same_patches(photo_shards: str, tmp_path: Path, sqlite: str) -> None:
    job = make_job(tmp_path / "job", photo_shards, "run.epochs=2", "optimizer.learning_rate=1e-12")
    train_rank(job.folder, ALONE)
    first, before, second, after = losses(job)
    assert after == pytest.approx(before, abs=1e-6)
    assert first != pytest.approx(second, abs=1e-6)  # training hides others each time


def test_a_pretraining_is_a_job_of_its_own() -> None:
    recipe = small_recipe()
    assert job_folder("s", "f" * 64, recipe, task=MASKED) == f"s/_vitseg/pretraining/ffffffff-{recipe.digest()}"
    others = {small_recipe(f"masked.{value}").digest() for value in ("ratio=0.5", "decoder_blocks=2")}
    assert len(others | {recipe.digest()}) == 3


@pytest.mark.parametrize("pixels", ["fixed", "image"])
def test_the_photo_is_shown_in_its_own_colors(photo_shards: str, pixels: str) -> None:
    manifest = read_manifest(photo_shards)
    recipe = small_recipe(f"model.pixels={pixels}")
    dark = torch.from_numpy(np.random.default_rng(0).integers(20, 60, (1, 3, 32, 64), dtype=np.uint8))
    batch = Batch(keys=["one"], images=dark, labels=torch.zeros(1, 32, 64, dtype=torch.uint8))
    model = build_masked(recipe.model, (32, 64), recipe.masked, seed=0).eval()
    with torch.no_grad():
        sheet = np.asarray(MaskedPatches(model, recipe, manifest).draw_panels(model, batch).convert("RGB"))
    shown = {tuple(pixel) for pixel in sheet.reshape(-1, 3).tolist()}
    drawn = {tuple(pixel) for pixel in dark[0].permute(1, 2, 0).reshape(-1, 3).tolist()}
    assert len({pixel for pixel in drawn if any(near(pixel, other) for other in shown)}) > 0.95 * len(drawn)


def near(pixel: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return all(abs(one - two) <= 1 for one, two in zip(pixel, other, strict=True))
