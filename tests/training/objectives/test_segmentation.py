"""What can be learned: classes, a thing and its background, images; from the shards to the bundle that comes back."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.training.conftest import small_recipe
from vitseg.data.manifest import read_manifest
from vitseg.data.plan import make_plan
from vitseg.data.shards import commit, write_shard
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
from vitseg.training.plan import check

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
    from vitseg.training import tracking_logger

    monkeypatch.setattr(tracking_logger, "TrackingLogger", lambda *settings: TrainingLogger())
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


def test_classes_can_not_be_learned_from_pairs_of_images(tmp_path: Path) -> None:
    for split, number in (("train", 0), ("val", 1)):
        for part in ("images", "targets"):
            path = tmp_path / "pairs" / split / part / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(scene(number)[0]).save(path)
    shards = pack(tmp_path / "pairs", tmp_path / "shards")
    manifest = read_manifest(shards)
    job = Job("job", shards, manifest.fingerprint, small_recipe("data.batch_size=1"))
    with pytest.raises(UsageError, match=r"no classes: train it with --set model.target=rgb"):
        check(job, manifest, 1)
    check(Job("job", shards, manifest.fingerprint, small_recipe("data.batch_size=1", "model.target=rgb")), manifest, 1)


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
