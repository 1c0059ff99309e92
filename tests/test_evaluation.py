"""Evaluation counts every labeled pixel once, however the split is cut into batches and ranks."""

import dataclasses
import io
import json
import math
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from tests.training.conftest import small_recipe
from vitseg.architecture import Architecture
from vitseg.data.loader import Batch, Batches
from vitseg.data.manifest import read_manifest
from vitseg.errors import DataError, UnrelatedClassesError, UsageError
from vitseg.evaluation import Criterion, evaluate_batches, evaluate_bundle, patch_sides
from vitseg.images.resize import resize
from vitseg.labels import Label, background_of, train_classes
from vitseg.metrics.result import Evaluation
from vitseg.metrics.scores import confusion_matrix
from vitseg.metrics.seams import seam_counts, seam_ratios
from vitseg.model.bundle import Bundle, load_bundle, save_bundle
from vitseg.model.segmenter import build_model, class_scores
from vitseg.recipe import LossRecipe


def make_bundle(
    folder: Path, target: str = "classes", size: tuple[int, int] = (32, 64), classes: tuple[Label, ...] = ()
) -> Bundle:
    classes = classes or train_classes()
    model = build_model(small_recipe(f"model.target={target}").model, size, len(classes), seed=0)
    with torch.no_grad():  # untrained outputs hardly differ from each other
        for parameter in model.parameters():
            parameter.mul_(3)
    save_bundle(folder, model, classes)
    return load_bundle(folder)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    return {target: make_bundle(tmp_path_factory.mktemp(target), target) for target in ("classes", "rgb")}


def test_what_is_taught_says_nothing_of_ignored_pixels() -> None:
    colors = torch.arange(256 * 3).remainder(256).to(torch.uint8).reshape(256, 3)
    labels = torch.tensor([[[0, 2, 255]]], dtype=torch.uint8)
    one_hot = Criterion("classes", 3, colors).teacher_targets(labels, 3)
    assert one_hot.tolist() == [[[[1.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]]]
    painted = Criterion("rgb", 3, colors).teacher_targets(labels, 3)
    assert (painted[0, :, 0].T * 255).round().tolist() == [[0, 1, 2], [6, 7, 8], [0, 0, 0]]


def samples(shards: str, split: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Read photos (H, W, 3) and train ids (H, W) straight from the tars."""
    found = []
    for path in sorted(Path(shards).glob(f"{split}-*.tar")):
        with tarfile.open(path) as tar:
            files = {member.name: tar.extractfile(member).read() for member in tar}
        for name in files:
            if name.endswith(".jpg"):
                pictures = (files[name], files[name[:-4] + ".png"])
                found.append(tuple(np.asarray(Image.open(io.BytesIO(data))) for data in pictures))
    return found


@pytest.mark.parametrize("target", ["classes", "rgb"])
def test_it_equals_a_count_image_by_image(bundles: dict[str, Bundle], shards: str, target: str) -> None:
    bundle = bundles[target]
    colors = np.array([label.color for label in bundle.classes]) / 255
    matrix, errors, losses, channels = np.zeros((19, 19), np.int64), [], [], []
    for photo, truth in samples(shards, "val"):
        with torch.inference_mode():
            output = bundle.model(torch.from_numpy(photo.copy()).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
        known = truth != 255
        pixels, ids = output[known].astype(np.float64), truth[known]
        if target == "rgb":
            answers = ((pixels[:, None] - colors) ** 2).sum(2).argmin(1)
            painted = pixels
            losses += np.abs(pixels - colors[ids]).mean(1).tolist()
        else:
            answers = pixels.argmax(1)
            painted = colors[answers]
            chances = np.exp(pixels) / np.exp(pixels).sum(1, keepdims=True)
            losses += (-np.log(chances[np.arange(len(ids)), ids])).tolist()
        errors += np.abs(painted - colors[ids]).mean(1).tolist()
        channels += (painted.argmax(1) == colors[ids].argmax(1)).tolist()
        np.add.at(matrix, (ids, answers), 1)
    found = evaluate_bundle(bundle, shards, "val")
    assert found.samples == 6
    assert len(np.unique(matrix.nonzero()[1])) > 2  # it answers more than one class
    np.testing.assert_array_equal(found.confusion.numpy(), matrix)
    assert found.loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert found.mean_absolute_error == pytest.approx(np.mean(errors), rel=1e-5)
    assert found.strongest_channel_accuracy == pytest.approx(np.mean(channels))
    assert found.strongest_channel_accuracy > matrix.trace() / matrix.sum()  # classes share their strongest channel
    assert (found.loss == found.mean_absolute_error) == (target == "rgb")
    answer = found.to_json()
    assert answer["pixel_accuracy"] == pytest.approx(matrix.trace() / matrix.sum())
    assert list(answer["per_class_iou"]) == [label.name for label in bundle.classes]


def seams_of(found: Evaluation) -> torch.Tensor:
    """Return all counts of neighboring pixels: of predictions and of labels, int64 (2, 2, 2, 2)."""
    return torch.stack([found.seams[8], found.target_seams[8]])


@pytest.mark.parametrize("target", ["classes", "rgb"])
def test_batches_and_ranks_of_any_size_count_the_same(bundles: dict[str, Bundle], shards: str, target: str) -> None:
    whole = evaluate_bundle(bundles[target], shards, "val", batch_size=6)
    for size in (1, 2, 4, 7):
        found = evaluate_bundle(bundles[target], shards, "val", batch_size=size)
        assert torch.equal(found.confusion, whole.confusion)
        assert torch.equal(seams_of(found), seams_of(whole))
        assert found.samples == 6
        assert found.strongest_channel_accuracy == whole.strongest_channel_accuracy
        assert found.loss == pytest.approx(whole.loss, rel=1e-6)
    manifest = read_manifest(shards)
    criterion = Criterion(target, 19, torch.from_numpy(bundles[target].palette))
    for world_size in (2, 4):  # 4 ranks: the last batch has samples for two of them
        ranks = [
            Batches(shards, manifest, "val", batch_size=4, rank=rank, world_size=world_size,
                    shuffle=False, drop_last=False)
            for rank in range(world_size)
        ]  # fmt: skip
        parts: list[Evaluation] = [
            evaluate_batches(bundles[target].model, rank.epoch(0), criterion, patches=(8,)) for rank in ranks
        ]
        assert torch.equal(sum(seams_of(part) for part in parts), seams_of(whole))
        assert torch.equal(sum(part.confusion for part in parts), whole.confusion)
        assert sum(part.samples for part in parts) == 6


@pytest.mark.parametrize("target", ["classes", "rgb"])
def test_pixels_without_a_class_count_nowhere(bundles: dict[str, Bundle], shards: str, target: str) -> None:
    batches = Batches(shards, read_manifest(shards), "val", batch_size=6, shuffle=False, drop_last=False)
    batch = next(iter(batches.epoch(0)))
    criterion = Criterion(target, 19, torch.from_numpy(bundles[target].palette))
    whole, *halves = (evaluate_batches(bundles[target].model, [part], criterion) for part in (
        batch,
        *(dataclasses.replace(batch, labels=batch.labels.where(rows, torch.tensor(255, dtype=torch.uint8)))
          for rows in (torch.arange(32)[:, None] < 12, torch.arange(32)[:, None] >= 12)),
    ))  # fmt: skip
    assert torch.equal(halves[0].confusion + halves[1].confusion, whole.confusion)
    for name in ("loss", "mean_absolute_error", "strongest_channel_accuracy"):
        total = sum(getattr(half, name) * int(half.confusion.sum()) for half in halves)
        assert total == pytest.approx(getattr(whole, name) * int(whole.confusion.sum()), rel=1e-5)


def test_pairs_of_images_have_errors_and_no_classes() -> None:
    photos, targets = torch.randint(0, 256, (2, 5, 3, 6, 8), dtype=torch.uint8)
    criterion = Criterion("rgb", 0, torch.zeros(256, 3, dtype=torch.uint8))

    class Repeat(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images / 255

    parts = [Batch(photos[cut], targets[cut], []) for cut in (slice(0, 2), slice(2, 5))]
    found = evaluate_batches(Repeat(), parts, criterion)
    error = (photos.double() - targets.double()) / 255
    assert found.mean_absolute_error == pytest.approx(float(error.abs().mean()), rel=1e-6)
    assert found.loss == pytest.approx(found.mean_absolute_error)
    assert found.mean_squared_error == pytest.approx(float(error.square().mean()), rel=1e-6)
    assert found.psnr == pytest.approx(-10 * math.log10(float(error.square().mean())), rel=1e-6)
    answer = found.to_json()
    assert (answer["miou"], answer["pixel_accuracy"], answer["per_class_iou"], answer["samples"]) == (None, None, {}, 5)
    assert set(found.flat()) == {"loss", "mean_absolute_error", "mean_squared_error", "psnr"}
    same = evaluate_batches(Repeat(), [Batch(photos, photos, [])], criterion)
    assert (same.mean_squared_error, same.to_json()["psnr"]) == (0, None)


def test_the_loss_of_training_is_validated_with_its_own_count(bundles: dict[str, Bundle], shards: str) -> None:
    weights = torch.linspace(0.1, 1.9, 19)
    colors = torch.from_numpy(bundles["classes"].palette)
    criterion = Criterion("classes", 19, colors, LossRecipe(label_smoothing=0.1), weights)
    batches = Batches(shards, read_manifest(shards), "val", batch_size=4, shuffle=False, drop_last=False)
    batch = next(iter(Batches(shards, read_manifest(shards), "val", batch_size=6, shuffle=False).epoch(0)))
    with torch.no_grad():
        output = bundles["classes"].model(batch.images)
    wanted = F.cross_entropy(output, batch.labels.long(), weights, ignore_index=255, label_smoothing=0.1)
    found = evaluate_batches(bundles["classes"].model, batches.epoch(0), criterion)
    assert found.loss == pytest.approx(float(wanted), rel=1e-5)


def test_matrices_of_single_images_add_up_to_that_of_all(bundles: dict[str, Bundle], shards: str) -> None:
    found = evaluate_bundle(bundles["classes"], shards, batch_size=4, keep_images=True)
    assert found.images is not None
    assert len(found.images) == found.samples == 6
    assert torch.equal(found.images.sum(0), found.confusion)
    one = evaluate_bundle(bundles["classes"], shards, batch_size=1, keep_images=True)
    assert torch.equal(one.images, found.images)  # in the order of the samples, whatever the batch
    assert found.images_per_second > 0
    assert evaluate_bundle(bundles["classes"], shards).images is None


def test_progress_and_the_mode_of_the_model(bundles: dict[str, Bundle], shards: str) -> None:
    seen: list[tuple[int, int]] = []
    evaluate_bundle(bundles["classes"], shards, "val", 4, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(4, 6), (6, 6)]
    model, criterion = bundles["classes"].model, Criterion("classes", 19, torch.from_numpy(bundles["classes"].palette))
    for training in (True, False):
        evaluate_batches(model.train(training), [], criterion)
        assert model.training is training


def test_models_and_data_that_do_not_belong_together(bundles: dict[str, Bundle], shards: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no split 'test': choose train, val"):
        evaluate_bundle(bundles["classes"], shards, "test")
    other = (Label("crack", (9, 9, 9), 1, 0), Label("joint", (8, 8, 8), 2, 1))
    with pytest.raises(
        UnrelatedClassesError, match=r"the model knows crack, joint; .* has road, .* …: they share no class"
    ):
        evaluate_bundle(make_bundle(tmp_path / "cracks", classes=other), shards)
    full = (Label("road", (9, 9, 9), 0, 0), *(Label(f"kind {i}", (i, 0, 0), i, i) for i in range(1, 255)))
    with pytest.raises(UnrelatedClassesError, match=r"the model knows 255 classes, and sidewalk, .* one more"):
        evaluate_bundle(make_bundle(tmp_path / "full", classes=full), shards)
    with pytest.raises(UnrelatedClassesError, match="has no classes"):
        pairs = dataclasses.replace(read_manifest(shards), classes=(), targets="images")
        evaluate_bundle(bundles["classes"], shards, manifest=pairs)


def counted_by_name(
    shards: str, predictions: list[np.ndarray], known: list[str], names: list[str]
) -> dict[str, float | None]:
    """Return the IoU of each class that both lists have, over all labeled pixels; predictions are ids of the first list."""
    ious = {}
    for name in [name for name in names if name in known]:
        hits = union = 0
        for (_, truth), ids in zip(samples(shards, "val"), predictions, strict=True):
            is_there, is_found = truth == names.index(name), (ids == known.index(name)) & (truth != 255)
            hits += int((is_there & is_found).sum())
            union += int((is_there | is_found).sum())
        ious[name] = hits / union if union else None
    return ious


@given(st.permutations(range(19)), st.sets(st.integers(0, 18)))
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_classes_are_matched_by_name_and_those_of_both_are_measured_on_all_pixels(
    bundles: dict[str, Bundle], shards: str, order: list[int], renamed: set[int]
) -> None:
    bundle, manifest = bundles["classes"], read_manifest(shards)
    known = [label.name for label in bundle.classes]
    classes = tuple(
        Label(f"new {known[old]}" if old in renamed else known[old], (new, 0, 9), 99 - new, new)
        for new, old in enumerate(order)
    )
    if len(renamed) == 19:
        return
    found = evaluate_bundle(bundle, shards, manifest=dataclasses.replace(manifest, classes=classes), keep_images=True)
    batch = next(iter(Batches(shards, manifest, "val", batch_size=6, shuffle=False).epoch(0)))
    wanted = counted_by_name(
        shards, list(bundle.segment(batch.images).numpy()), known, [label.name for label in classes]
    )
    answer = found.to_json()
    assert answer["per_class_iou"] == pytest.approx(wanted)
    assert answer["miou"] == pytest.approx(np.mean([iou for iou in wanted.values() if iou is not None]))
    assert set(answer["only_in_model"]) == {known[old] for old in renamed}
    assert set(answer["only_in_data"]) == {f"new {known[old]}" for old in renamed}
    assert found.images is not None
    assert torch.equal(found.images.sum(0), found.confusion)
    assert math.isfinite(found.loss)
    json.dumps(answer, allow_nan=False)


def test_a_binary_model_is_measured_by_its_foreground_on_several_classes(shards: str, tmp_path: Path) -> None:
    road = train_classes()[0]
    classes = (road, background_of(road))
    model = build_model(small_recipe().model, (32, 64), 1, seed=0)
    save_bundle(tmp_path, model, classes)
    bundle, manifest = load_bundle(tmp_path), read_manifest(shards)
    batch = next(iter(Batches(shards, manifest, "val", batch_size=6, shuffle=False).epoch(0)))
    wanted = counted_by_name(
        shards, list(bundle.segment(batch.images).numpy()), ["road", "background"], [x.name for x in manifest.classes]
    )
    assert evaluate_bundle(bundle, shards).to_json()["per_class_iou"] == pytest.approx(wanted)


@pytest.mark.parametrize("target", ["classes", "rgb"])
def test_a_model_sees_photographs_at_its_own_size(shards: str, tmp_path: Path, target: str) -> None:
    bundle = make_bundle(tmp_path, target, size=(48, 32))
    manifest = read_manifest(shards)
    batch = next(iter(Batches(shards, manifest, "val", batch_size=6, shuffle=False).epoch(0)))
    fitted = np.stack([resize(photo, (48, 32)) for photo in batch.images.permute(0, 2, 3, 1).numpy()])
    with torch.no_grad():
        output = bundle.model(torch.from_numpy(fitted).permute(0, 3, 1, 2))
    output = F.interpolate(output, (32, 64), mode="bilinear")
    ids = class_scores(output, torch.from_numpy(bundle.palette[:19]), target).argmax(1)
    found = evaluate_bundle(bundle, shards)
    assert torch.equal(found.confusion, confusion_matrix(batch.labels, ids, 19))
    assert found.seams == {}
    assert target == "rgb" or torch.equal(bundle.segment(batch.images).long(), ids)


@pytest.mark.parametrize("target", ["classes", "rgb"])
def test_seams_are_those_of_the_classes_that_are_shown(bundles: dict[str, Bundle], shards: str, target: str) -> None:
    batch = next(iter(Batches(shards, read_manifest(shards), "val", batch_size=6, shuffle=False).epoch(0)))
    found = evaluate_bundle(bundles[target], shards)
    answer = found.to_json()
    for name, ids in (
        ("seam_ratio", bundles[target].predict(batch.images).argmax(1)),
        ("seam_ratio_truth", batch.labels),
    ):
        expected = seam_ratios({8: seam_counts(ids, 8)})["8"]
        assert None not in expected.values()
        assert answer[name] == {"8": expected}
        for side, ratio in expected.items():
            assert found.flat("final/")[f"final/{name}_8_{side}"] == ratio
    assert 0.5 < found.to_json()["seam_ratio_truth"]["8"]["rows"] < 2  # scenes know nothing of patches
    json.dumps(answer, allow_nan=False)


def test_ratios_that_do_not_exist_are_null_and_no_metric(bundles: dict[str, Bundle]) -> None:
    model, criterion = bundles["classes"].model, Criterion("classes", 19, torch.from_numpy(bundles["classes"].palette))
    found = evaluate_batches(model, [], criterion, patches=(16, 8))
    nothing = {"rows": None, "columns": None}
    assert found.to_json()["seam_ratio"] == found.to_json()["seam_ratio_truth"] == {"16": nothing, "8": nothing}
    assert not [name for name in found.flat() if "seam" in name]


def test_labels_out_of_range_are_refused_before_the_loss_meets_them(bundles: dict[str, Bundle]) -> None:
    model, criterion = bundles["classes"].model, Criterion("classes", 19, torch.from_numpy(bundles["classes"].palette))
    height, width = model.image_size
    batch = Batch(
        torch.zeros(1, 3, height, width, dtype=torch.uint8),
        torch.full((1, height, width), 200, dtype=torch.uint8),
        ["a"],
    )
    with pytest.raises(DataError, match="a label is outside 0-18"):
        evaluate_batches(model, [batch], criterion)


def test_the_sides_of_a_networks_patches() -> None:
    assert patch_sides(Architecture(patch_size=16)) == (16,)
    assert patch_sides(Architecture(patch_size=16, decoder="attention", fine_patch=4, fine_blocks=1)) == (16, 4)
    assert patch_sides(Architecture(patch_size=16, decoder="attention", fine_blocks=1)) == (16,)
    assert patch_sides(Architecture(patch_size=16, fine_patch=4)) == (16,)  # read by no other decoder
