"""What a GPU changes: nothing but speed. Skipped where there is none."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.bench.measure import pack_scenes
from tests.training.conftest import Power
from vitseg import dist
from vitseg.architecture import Architecture
from vitseg.config import load_recipe
from vitseg.data.augment import augment
from vitseg.data.loader import Batch, Batches
from vitseg.data.manifest import Manifest
from vitseg.evaluation import evaluate_batches
from vitseg.inference import context
from vitseg.inference import model as inference_model
from vitseg.inference.chunk import segment_chunk
from vitseg.inference.gpu_stream import GpuStream
from vitseg.inference.job import ModelRef, Options
from vitseg.inference.plan import plan_job
from vitseg.labels import train_classes
from vitseg.losses import segmentation_loss
from vitseg.model.attention_decoder import AttentionDecoder
from vitseg.model.bundle import load_bundle, read_identity, save_bundle
from vitseg.model.segmenter import build_model
from vitseg.precision import Precision
from vitseg.recipe import Recipe
from vitseg.storage import open_store
from vitseg.synth.dataset import write_photographs
from vitseg.training.logger import TrainingLogger
from vitseg.training.loop import Trainer
from vitseg.training.objectives.base import Objective
from vitseg.training.objectives.masked_patches import MaskedPatches
from vitseg.training.objectives.segmentation import Segmentation
from vitseg.training.precision import make_deterministic
from vitseg.training.step import Learner
from vitseg.training.worker import batches_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CPU, GPU = dist.World(0, 1, torch.device("cpu")), dist.World(0, 1, torch.device("cuda", 0))
HALF = Precision("bfloat16", "of a test")
EIGHT = ["run.epochs=12", "data.batch_size=8", "run.evaluate_epochs=1000", "run.panel_epochs=1000"]

Data = tuple[str, Manifest]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Pack 16 scenes to learn from and 4 to measure by, of 64×64 pixels."""
    return pack_scenes(tmp_path_factory.mktemp("cuda"), train=16, val=4, side=64)


def make_trainer(data: Data, recipe: Recipe, world: dist.World, folder: Path) -> Trainer:
    shards, manifest = data
    objective = Segmentation(Segmentation.build_model(recipe, manifest).to(world.device), recipe, manifest)
    return Trainer(objective, world, *batches_of(shards, manifest, recipe, world), open_store(folder), TrainingLogger())


@pytest.mark.parametrize("preset", ["tiny", "small", "base", "vit-base", "paper"])
def test_a_preset_says_what_it_says_on_a_cpu(preset: str) -> None:
    model = build_model(load_recipe(preset).model, (64, 96), 19, 0).eval()
    torch.nn.init.normal_(model.decoder.head.weight, std=0.1)  # or it says nearly nothing
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    with torch.inference_mode():
        there = model(images)
        here = model.cuda()(images.cuda()).cpu()
    assert (here - there).norm() / there.norm() < 1e-4


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
def test_the_attention_decoder_has_the_same_gradients(half: bool) -> None:
    torch.manual_seed(0)
    arch = Architecture(patch_size=8, mlp_units=(96, 64), decoder="attention", fine_patch=4, fine_blocks=1)
    layer, tokens, patches = AttentionDecoder(arch, 5), torch.randn(2, 13 * 8, 64), torch.randn(2, 13 * 8, 192)
    found = []
    for device in ("cpu", "cuda"):
        layer = layer.to(device)
        with torch.autocast(device, torch.bfloat16, enabled=half and device == "cuda"):
            mixed = layer(tokens.to(device), patches.to(device), (13, 8))
        (mixed.float() * torch.arange(5, device=device)[:, None, None]).sum().backward()
        found.append(
            [mixed.detach().float().cpu(), *(parameter.grad.float().cpu() for parameter in layer.parameters())]
        )
        layer.zero_grad(set_to_none=True)
    for there, here in zip(*found, strict=True):
        assert (here - there).norm() / there.norm() < (2e-2 if half else 1e-4)


def test_augmentation_makes_the_same_images(data: Data) -> None:
    shards, manifest = data
    batch = next(iter(Batches(shards, manifest, "train", batch_size=8).epoch(0)))
    recipe = load_recipe("small").augment
    for step in range(8):
        pairs = [
            augment(
                batch.images.to(device), batch.labels.to(device), recipe,
                manifest.splits["train"].pixels_per_class, seed=0, step=step, rows=range(8),
            )
            for device in ("cpu", "cuda")
        ]  # fmt: skip
        (images, labels), (photos, truth) = pairs
        assert torch.equal(labels, truth.cpu())
        assert (images.int() - photos.cpu().int()).abs().max() <= 1  # a rounding


@pytest.mark.parametrize(
    "settings",
    [
        ["model.decoder=attention"],
        ["model.decoder=patch", "optimizer.name=adamw"],
        ["model.decoder=spiral"],
        ["model.target=rgb"],
        ["loss.class_weights=balanced", "loss.dice=1", "optimizer.accumulate=2"],
    ],
    ids=lambda settings: "+".join(settings),
)
def test_training_learns_and_goes_on_where_it_was_cut(data: Data, tmp_path: Path, settings: list[str]) -> None:
    recipe = load_recipe("small", overrides=[*EIGHT, "run.evaluate_epochs=12", *settings])
    straight = make_trainer(data, recipe, GPU, tmp_path / "straight").run()
    assert straight[-1]["train/loss"] < 0.8 * straight[0]["train/loss"]
    cut = make_trainer(data, recipe, GPU, tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        cut.logger = Cut(after=5)
        cut.run()
    rest = make_trainer(data, recipe, GPU, tmp_path / "cut")
    rest.logger = heard = Cut(after=12)
    resumed = rest.run()
    assert heard.epochs == [6, 7, 8, 9, 10, 11, 12]
    assert resumed[:5] == cut.progress.history[:5]
    # The same steps; sums on a GPU may be added up in another order each time.
    assert resumed[-1]["train/loss"] == pytest.approx(straight[-1]["train/loss"], rel=0.05)


def test_deterministic_means_the_same_weights_each_time(data: Data, tmp_path: Path) -> None:
    recipe = load_recipe("small", overrides=[*EIGHT, "run.evaluate_epochs=12", "optimizer.average=0.9"])
    make_deterministic()
    try:
        trainers = [make_trainer(data, recipe, GPU, tmp_path / name) for name in ("one", "two")]
        rows = [trainer.run() for trainer in trainers]
    finally:
        torch.use_deterministic_algorithms(False)
    assert rows[0] == rows[1]
    for one, two in zip(trainers[0].model.parameters(), trainers[1].model.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["run.precision=float16"],
        ["optimizer.accumulate=2", "model.stochastic_depth=0.3", "model.dropout=0.1"],
        ["model.position=rotary", "model.registers=4"],
    ],
    ids=str,
)
def test_a_graph_trains_the_same_weights_also_where_it_was_cut(
    data: Data, tmp_path: Path, settings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    few = [*EIGHT, "run.epochs=4", "run.evaluate_epochs=4", "run.checkpoint_steps=1", "run.log_steps=1"]
    recipe = load_recipe("small", overrides=[*few, *settings])
    eager = load_recipe("small", overrides=[*few, *settings, "run.cuda_graph=false"])
    make_deterministic()
    try:
        trainers = [make_trainer(data, each, GPU, tmp_path / str(i)) for i, each in enumerate((recipe, eager, recipe))]
        trainers[2].logger = Power(cut=5)  # in the middle of the third epoch
        with pytest.raises(KeyboardInterrupt):
            trainers[2].run()
        trainers[2] = make_trainer(data, recipe, GPU, tmp_path / "2")
        for trainer in trainers:
            trainer.run()
    finally:
        torch.use_deterministic_algorithms(False)
    assert capsys.readouterr().out.count("a step is one CUDA graph from now on") == 3
    wanted = trainers[1].model.state_dict()
    for trainer in trainers:
        for name, tensor in trainer.model.state_dict().items():
            assert torch.equal(tensor, wanted[name]), name


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["run.cuda_graph=false"],
        ["run.precision=float16", "optimizer.average=0.9"],
        ["loss.class_weights=balanced", "loss.dice=1", "optimizer.accumulate=2"],
        ["model.target=rgb"],
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [Segmentation, MaskedPatches])
def test_a_step_waits_for_the_gpu_once(
    data: Data, settings: list[str], kind: type[Objective], monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, manifest = data
    recipe = load_recipe("small", overrides=[*EIGHT, *settings])
    learner = Learner(kind(kind.build_model(recipe, manifest).to(GPU.device), recipe, manifest), GPU)
    learner.connect()
    batch = next(batches_of(shards, manifest, recipe, GPU)[0].epoch(0))
    assert batch.images.is_pinned()
    assert batch.labels.is_pinned()
    read, reads = dist.read_numbers, list[int]()

    def reading(tensor: torch.Tensor) -> list[float]:
        torch.cuda.set_sync_debug_mode("default")
        reads.append(len(tensor))
        numbers = read(tensor)
        torch.cuda.set_sync_debug_mode("error")
        return numbers

    for step in range(3):
        learner.take_step(batch, step=step, learning_rate=1e-3, time_used=0.0)
    monkeypatch.setattr(dist, "read_numbers", reading)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(3, 6):
            learner.take_step(batch, step=step, learning_rate=1e-3, time_used=0.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(reads) == 3


def test_an_evaluation_waits_for_the_gpu_at_its_end_only(data: Data, tmp_path: Path) -> None:
    trainer = make_trainer(data, load_recipe("small", overrides=EIGHT), GPU, tmp_path)

    def watched(batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            torch.cuda.set_sync_debug_mode("error")
            yield batch
            torch.cuda.set_sync_debug_mode("default")

    wanted = evaluate_batches(trainer.model, trainer.validation.epoch(0), trainer.objective.criterion, patches=(8,))
    try:
        found = evaluate_batches(
            trainer.model, watched(trainer.validation.epoch(0)), trainer.objective.criterion, patches=(8,)
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(found.confusion, wanted.confusion)


@pytest.mark.parametrize(
    "settings", [["run.precision=float16"], ["run.precision=float32"], ["run.compile=true"]], ids=str
)
def test_other_numbers_and_kernels_learn_nearly_the_same(data: Data, tmp_path: Path, settings: list[str]) -> None:
    found = []
    for name, more in (("bfloat16", []), ("other", settings)):
        recipe = load_recipe("small", overrides=[*EIGHT, "run.evaluate_epochs=12", *more])
        found.append(make_trainer(data, recipe, GPU, tmp_path / name).run()[-1])
    assert found[1]["train/loss"] == pytest.approx(found[0]["train/loss"], rel=0.1)


class Cut(TrainingLogger):
    """Fails after some epochs, as a power cut would."""

    def __init__(self, after: int) -> None:
        self.after, self.epochs = after, list[float]()

    def log_epoch(self, row: dict[str, float]) -> None:
        self.epochs.append(row["epoch"])
        if row["epoch"] > self.after:
            raise KeyboardInterrupt


def test_masked_pretraining_learns(data: Data, tmp_path: Path) -> None:
    shards, manifest = data
    recipe = load_recipe("small", overrides=EIGHT)
    objective = MaskedPatches(MaskedPatches.build_model(recipe, manifest).to(GPU.device), recipe, manifest)
    batches = batches_of(shards, manifest, recipe, GPU)
    history = Trainer(objective, GPU, *batches, open_store(tmp_path), TrainingLogger()).run()
    assert history[-1]["train/loss"] < history[0]["train/loss"]


def test_an_evaluation_counts_what_it_counts_on_a_cpu(data: Data, tmp_path: Path) -> None:
    recipe = load_recipe("tiny", overrides=EIGHT)
    trainer = make_trainer(data, recipe, GPU, tmp_path)
    trainer.run()
    found = []
    for world in (GPU, CPU):
        objective = Segmentation(trainer.model.to(world.device), recipe, data[1])
        found.append(evaluate_batches(objective.model, trainer.validation.epoch(0), objective.criterion, patches=(8,)))
    assert found[0].confusion.sum() == found[1].confusion.sum()
    assert (found[0].confusion - found[1].confusion).abs().sum() <= 0.001 * found[1].confusion.sum()
    assert found[0].to_json()["seam_ratio_truth"] == found[1].to_json()["seam_ratio_truth"]
    assert found[0].loss == pytest.approx(found[1].loss, rel=1e-3)


def test_losses_agree() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 5, 32, 32), torch.randint(0, 6, (2, 32, 32), dtype=torch.uint8)
    labels[labels == 5] = 255
    colors = torch.randint(0, 256, (256, 3), dtype=torch.uint8)
    recipe = load_recipe("tiny", overrides=["loss.dice=1", "loss.label_smoothing=0.1"]).loss
    there, here = (
        segmentation_loss(logits.to(device), labels.to(device), colors.to(device), "classes", recipe, None)
        for device in ("cpu", "cuda")
    )
    torch.testing.assert_close(here[0].cpu(), there[0], rtol=1e-5, atol=0)
    assert here[1].cpu() == there[1]


@pytest.fixture(scope="module")
def segmenter(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a small model, so that its scores are as clear as those of real ones, and save it."""
    folder = tmp_path_factory.mktemp("segmenter")
    trainer = make_trainer(data, load_recipe("small", overrides=EIGHT), GPU, folder / "run")
    trainer.run()
    save_bundle(folder / "bundle", trainer.model, data[1].classes)
    return folder / "bundle"


@pytest.mark.parametrize("options", [{}, {"flip": True}, {"tile": True}, {"tile": True, "flip": True}], ids=str)
def test_masks_are_nearly_those_of_a_cpu(
    segmenter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, bool]
) -> None:
    write_photographs(str(tmp_path / "photographs"), count=6, seed=0)
    reference = ModelRef(name="m", version="local", sha256=str(read_identity(segmenter)), folder=str(segmenter))
    for name, device in (("cpu", CPU.device), ("cuda", GPU.device)):
        for module in (inference_model, context):
            monkeypatch.setattr(module, "own_device", lambda device=device: device)
        inference_model._loaded.cache_clear()
        chosen = Options(also=("confidence",), **options)
        dest = str(tmp_path / name)
        job = plan_job(
            str(tmp_path / "photographs"), dest, model=reference, options=chosen, batch_size=4, chunk_images=6
        )
        assert segment_chunk(job, 0).ok == 6
    differ = pixels = 0
    for there in sorted((tmp_path / "cpu").rglob("*.png")):
        ids, ours = (
            np.asarray(Image.open(path)) for path in (there, tmp_path / "cuda" / there.relative_to(tmp_path / "cpu"))
        )
        if "confidence" in there.parts:
            assert np.abs(ids.astype(int) - ours).mean() < 2
        else:
            differ, pixels = differ + (ids != ours).sum(), pixels + ids.size
    assert differ < 0.01 * pixels  # bfloat16, which the processor may not use


@pytest.mark.parametrize("preset", ["tiny", "small", "base", "vit-base", "paper"])
def test_every_preset_is_recorded_as_a_graph_that_gives_the_same_masks(preset: str, tmp_path: Path) -> None:
    model = build_model(load_recipe(preset).model, (64, 96), 19, 0)
    torch.nn.init.normal_(model.decoder.head.weight, std=0.1)
    save_bundle(tmp_path, model, train_classes())
    bundle = load_bundle(tmp_path)
    bundle.model.cuda()
    stream = GpuStream(bundle, GPU.device, 4, precision=HALF, flip=False)
    assert stream._graph is not None
    images = list(np.random.default_rng(0).integers(0, 256, (8, 64, 96, 3), np.uint8))
    sizes = [(64, 96), (64, 96), (300, 200), (7, 1000)] * 2
    waiting = [stream.launch(images[first : first + 4], sizes[first : first + 4]) for first in (0, 4)]
    ours = [prediction for collect in waiting for prediction in collect()]
    stream._graph = None
    theirs = [prediction for first in (0, 4) for prediction in stream.launch(images[first : first + 4], sizes[:4])()]
    for one, other, size in zip(ours, theirs, sizes, strict=True):
        assert one.ids.shape == size
        assert (one.ids == other.ids).mean() > 0.999
        assert one.mean_confidence == pytest.approx(other.mean_confidence, abs=1e-3)
