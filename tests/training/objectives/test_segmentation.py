"""What can be learned: classes, a thing and its background, images; from the shards to the bundle that comes back."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.training.conftest import AUGMENT, MakeTrainer, small_recipe
from vitseg.data.commit import commit
from vitseg.data.manifest import read_manifest
from vitseg.data.plan import make_plan
from vitseg.data.shards import write_shard
from vitseg.dist import World
from vitseg.errors import UsageError
from vitseg.evaluation import evaluate_bundle
from vitseg.inference.chunk import segment_chunk
from vitseg.inference.job import ModelRef, Options
from vitseg.inference.plan import plan_job
from vitseg.model.bundle import Bundle, load_bundle
from vitseg.recipe import Recipe
from vitseg.training import worker
from vitseg.training.job import Job, job_folder, write_job
from vitseg.training.logger import TrainingLogger
from vitseg.training.objectives.segmentation import Segmentation

THING = {"name": "crack", "color": [200, 30, 30], "id": 255, "train_id": 0}


def scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a gray photo (16, 16, 3) with a dark bar, and its mask: 255 on the bar, 0 elsewhere."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((16, 16), np.uint8)
    left = int(rng.integers(0, 12))
    mask[:, left : left + 4] = 255
    return np.where(mask[..., None] > 0, 30, rng.integers(150, 220, (16, 16, 3))).astype(np.uint8), mask


def pack(source: Path, dest: Path) -> str:
    plan = make_plan(str(source), size=(16, 16))
    commit(plan, [write_shard(shard, plan.options, str(dest)) for shard in plan.shards], str(dest))
    return str(dest)


@pytest.fixture(scope="module")
def cracks(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Pack a binary data set: one class is listed."""
    root = tmp_path_factory.mktemp("cracks")
    for number in range(40):
        for part, pixels in zip(("images", "masks"), scene(number), strict=True):
            path = root / ("train" if number < 32 else "val") / part / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    (root / "classes.json").write_text(json.dumps([THING]))
    return pack(root, tmp_path_factory.mktemp("shards"))


def train(shards: str, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> Bundle:
    """Train in this process, without a tracking server, and load what comes out."""
    monkeypatch.setattr(worker, "TrackingLogger", lambda *settings: TrainingLogger())
    recipe = small_recipe("optimizer.learning_rate=0.01", "run.epochs=10", *overrides)
    fingerprint = read_manifest(shards).fingerprint
    job = Job(job_folder(shards, fingerprint, recipe), shards, fingerprint, recipe)
    write_job(job)
    worker.train_rank(job.folder, World(0, 1, torch.device("cpu")))
    return load_bundle(Path(job.folder) / "bundle")


LOSS = ["loss.class_weights=balanced", "loss.dice=0.5", "loss.label_smoothing=0.05"]


@pytest.mark.parametrize("overrides", [["model.target=classes"], LOSS, ["model.target=rgb"]], ids="+".join)
def test_a_thing_and_its_background_are_learned(
    cracks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str]
) -> None:
    bundle = train(cracks, monkeypatch, *overrides)
    photos = torch.from_numpy(np.stack([scene(seed)[0] for seed in (100, 101)])).permute(0, 3, 1, 2).contiguous()
    channels = 3 if bundle.architecture.target == "rgb" else 1
    assert bundle.model(photos).shape == (2, channels, 16, 16)
    assert bundle.predict(photos).shape == (2, 2, 16, 16)
    found = evaluate_bundle(bundle, cracks).to_json()
    assert list(found["per_class_iou"]) == ["crack", "background"]
    assert min(found["per_class_iou"].values()) > 0.8

    (tmp_path / "photos").mkdir()
    photo, mask = scene(102)
    Image.fromarray(photo).save(tmp_path / "photos" / "a.png")
    folder = Path(job_folder(cracks, read_manifest(cracks).fingerprint, small_recipe(
        "optimizer.learning_rate=0.01", "run.epochs=10", *overrides))) / "bundle"  # fmt: skip
    model = ModelRef(name="cracks", version="1", sha256=bundle.sha256, folder=str(folder))
    job = plan_job(str(tmp_path / "photos"), str(tmp_path / "masks"), model=model, options=Options(ids="label"))
    assert segment_chunk(job, 0).written == 1
    with Image.open(tmp_path / "masks" / "a.png.png") as image:  # as the user's own masks: 255 the thing, 0 the rest
        assert (np.asarray(image) == mask).mean() > 0.9
        assert set(np.unique(np.asarray(image))) == {0, 255}


SEVENS = ["model.patch_size=7", "model.fine_patch=7"]


def test_images_that_patches_do_not_fill_are_resized_wherever_the_model_sees_them(
    cracks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = train(cracks, monkeypatch, *SEVENS)
    assert bundle.image_size == (14, 14)
    found = evaluate_bundle(bundle, cracks)
    assert min(found.to_json()["per_class_iou"].values()) > 0.7
    folder = job_folder(cracks, read_manifest(cracks).fingerprint, small_recipe(
        "optimizer.learning_rate=0.01", "run.epochs=10", *SEVENS))  # fmt: skip
    best = max(json.loads(Path(folder, "history.json").read_text()), key=lambda row: row["val/miou"])
    assert best["val/miou"] == pytest.approx(found.flat()["miou"])  # training validates as anybody evaluates
    (tmp_path / "photos").mkdir()
    photo, mask = scene(102)
    Image.fromarray(photo).save(tmp_path / "photos" / "a.png")
    model = ModelRef(name="cracks", version="1", sha256=bundle.sha256, folder=f"{folder}/bundle")
    job = plan_job(str(tmp_path / "photos"), str(tmp_path / "masks"), model=model, options=Options(ids="label"))
    assert segment_chunk(job, 0).written == 1
    with Image.open(tmp_path / "masks" / "a.png.png") as image:
        assert (np.asarray(image) == mask).mean() > 0.8


@pytest.mark.parametrize("target", ["classes", "rgb"])
@pytest.mark.parametrize("decoder", ["attention", "spiral"])
def test_every_decoder_learns_from_images_that_its_patches_do_not_fill(
    make_trainer: MakeTrainer, target: str, decoder: str
) -> None:
    options = [*SEVENS, f"model.decoder={decoder}", f"model.target={target}", "model.fine_width=32"]
    trainer = make_trainer("job", small_recipe("run.epochs=1", "optimizer.accumulate=2", *options))
    assert trainer.model.image_size == (35, 63)
    sizes: set[tuple[int, ...]] = set()
    trainer.model.register_forward_pre_hook(lambda _, inputs: sizes.update(tuple(value.shape[-2:]) for value in inputs))
    assert "val/loss" in trainer.run()[0]
    assert sizes == {(35, 63)}
    assert trainer.objective.draw_panels(trainer.model.eval(), next(iter(trainer.validation.epoch(0))))


def test_balanced_weights_are_those_of_the_training_split(cracks: str) -> None:
    manifest = read_manifest(cracks)

    def weights_of(recipe: Recipe) -> torch.Tensor | None:
        return Segmentation(Segmentation.build_model(recipe, manifest), recipe, manifest).criterion.weights

    weights = weights_of(small_recipe("loss.class_weights=balanced"))
    assert weights is not None
    assert float(weights.sum()) == pytest.approx(2)
    assert float(weights[0] / weights[1]) == pytest.approx(3**0.5)  # the bar covers a quarter
    assert weights_of(small_recipe()) is None


@pytest.mark.parametrize("value", LOSS)
def test_losses_of_classes_are_refused_for_colors(value: str) -> None:
    with pytest.raises(UsageError, match=r"are for model\.target = classes"):
        small_recipe("model.target=rgb", value)


def test_each_step_is_augmented_by_its_own_number(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = []

    def spy(images: Any, labels: Any, *arguments: Any, seed: int, step: int, rows: Any) -> Any:
        heard.append((*arguments, seed, step, list(rows)))
        return images, labels

    monkeypatch.setattr("vitseg.training.objectives.base.augment", spy)
    recipe = small_recipe("run.epochs=1", "run.seed=5", *AUGMENT)
    trainer = make_trainer("job", recipe)
    trainer.run()
    pixels = trainer.data.pixels_per_class
    assert sum(pixels) > 0
    assert heard == [(recipe.augment, pixels, 5, step, list(range(8))) for step in range(3)]


@pytest.mark.parametrize("target", ["classes", "rgb"])
def test_a_decoder_that_wants_the_truth_gets_it_in_training_alone(make_trainer: MakeTrainer, target: str) -> None:
    recipe = small_recipe("model.decoder=spiral", f"model.target={target}", "run.epochs=1", "optimizer.accumulate=2")
    trainer = make_trainer("job", recipe)
    given: list[tuple[bool, list[tuple[int, ...]]]] = []
    trainer.model.register_forward_pre_hook(
        lambda module, inputs: given.append((module.training, [tuple(value.shape) for value in inputs]))
    )
    trainer.run()
    size, channels = tuple(trainer.model.image_size), 3 if target == "rgb" else trainer.objective.criterion.classes
    assert {training for training, _ in given} == {True, False}
    for training, (images, *truth) in given:
        assert truth == ([(images[0], channels, *size)] if training else [])


def test_a_decoder_that_asks_for_no_truth_sees_none(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("job", small_recipe("run.epochs=1"))
    trainer.model.register_forward_pre_hook(lambda _, inputs: pytest.fail("truth") if len(inputs) > 1 else None)
    trainer.run()


def test_colors_are_learned_too(make_trainer: MakeTrainer) -> None:
    rows = make_trainer("job", small_recipe("model.target=rgb", "run.epochs=6", "optimizer.learning_rate=0.005")).run()
    assert rows[-1]["val/mean_absolute_error"] < rows[0]["val/mean_absolute_error"]
    assert 0 < rows[-1]["val/loss"] < 0.5


def test_what_is_trained_on_is_changed_and_what_is_validated_is_not(make_trainer: MakeTrainer) -> None:
    heard = []
    for name, overrides in (("plain", []), ("changed", AUGMENT), ("gray", ["augment.scale=[0.25, 0.25]"])):
        recipe = small_recipe("run.epochs=1", "optimizer.learning_rate=1e-12", *overrides)
        heard.append(make_trainer(name, recipe).run()[0])
    plain, changed, gray = heard
    assert changed["train/loss"] != plain["train/loss"] != gray["train/loss"]
    for row in (changed, gray):
        assert row["val/loss"] == pytest.approx(plain["val/loss"], rel=1e-6)
