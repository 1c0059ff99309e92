"""Two bundles on the same validation images, by the flow that `vitseg registry compare` runs."""

from pathlib import Path

import pytest

from flows.stack.stack import StackStatus
from tests.training.conftest import small_recipe
from vitseg.data.manifest import read_manifest
from vitseg.evaluation import evaluate_bundle
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
