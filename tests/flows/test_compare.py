"""Two bundles on the same validation images, by the flow that `vitseg registry compare` runs."""

import dataclasses
from pathlib import Path

import pytest

from flows.stack.stack import StackStatus
from tests.training.conftest import small_recipe
from vitseg.data.manifest import read_manifest
from vitseg.errors import UnrelatedClassesError
from vitseg.evaluation import evaluate_bundle
from vitseg.labels import Label
from vitseg.model.bundle import load_bundle, save_bundle
from vitseg.model.segmenter import build_model


def test_the_same_images_measure_both(stack: StackStatus, shards: str, tmp_path: Path) -> None:
    from flows.compare import compare, comparison_lines

    manifest = read_manifest(shards)
    folders = []
    for seed in (0, 1):
        model = build_model(small_recipe().model, manifest.image_size, len(manifest.classes), seed)
        model.decoder.head.bias.data[seed :: len(manifest.classes)] += (
            1.0  # one predicts road everywhere, the other sidewalk
        )
        save_bundle(folder := tmp_path / f"bundle-{seed}", model, manifest.classes)
        folders.append(folder)
    result = compare(str(folders[1]), str(folders[0]), shards=shards)
    alone = [evaluate_bundle(load_bundle(folder), shards) for folder in reversed(folders)]
    for side, evaluation in zip(("a", "b"), alone, strict=True):
        assert result[side]["miou"] == evaluation.scores.miou
        assert result["differences"]["miou"][side] == pytest.approx(evaluation.scores.miou)
        assert result[side]["images_per_second"] > 0
    assert result["delta"]["pixel_accuracy"] == pytest.approx(result["differences"]["pixel_accuracy"]["delta"])
    assert result["differences"]["pixel_accuracy"]["significant"]  # there is more road than sidewalk in each street
    assert result["images"] == manifest.splits["val"].samples
    lines = comparison_lines(result)
    assert lines["pixel_accuracy"].count("→") == 1
    assert "95%" in lines["pixel_accuracy"]
    assert "not significant" not in lines["pixel_accuracy"]
    assert result["holdout"] in lines["on"]


def test_models_with_other_classes_are_compared_on_those_that_both_know(
    stack: StackStatus, shards: str, tmp_path: Path
) -> None:
    from flows.compare import compare, comparison_lines

    manifest = read_manifest(shards)
    fewer = (*manifest.classes[1::-1], Label("kerb", (7, 7, 7), 77, 2))  # sidewalk, road, and one of its own
    fewer = tuple(dataclasses.replace(label, train_id=place) for place, label in enumerate(fewer))
    for name, classes, size in (("a", fewer, (16, 32)), ("b", manifest.classes, manifest.image_size)):
        model = build_model(small_recipe().model, size, len(classes), 0)
        save_bundle(tmp_path / name, model, classes)
    result = compare(str(tmp_path / "a"), str(tmp_path / "b"), shards=shards)
    assert list(result["differences"]) == ["miou", "pixel_accuracy", "iou/road", "iou/sidewalk"]
    assert result["only_a_knows"] == ["kerb"]
    assert result["only_b_knows"] == [label.name for label in manifest.classes[2:]]
    whole = evaluate_bundle(load_bundle(tmp_path / "b"), shards).scores.per_class_iou
    assert [result["b"]["per_class_iou"][name] for name in ("road", "sidewalk")] == list(whole[:2])
    assert result["delta"]["miou"] == pytest.approx(result["differences"]["miou"]["delta"])
    assert comparison_lines(result)["only a knows, so not compared"] == "kerb"
    (tmp_path / "c").mkdir()
    other = (Label("crack", (1, 1, 1), 1, 0), manifest.classes[5])
    save_bundle(
        tmp_path / "c",
        build_model(small_recipe().model, (16, 32), 2, 0),
        (other[0], dataclasses.replace(other[1], train_id=1)),
    )
    with pytest.raises(UnrelatedClassesError, match="share no class that these images have"):
        compare(str(tmp_path / "a"), str(tmp_path / "c"), shards=shards)
