"""The flow that measures any model on any split."""

import pytest

from vitseg.evaluation import evaluate_bundle
from vitseg.registry import versions
from vitseg.registry.versions import Version


def test_a_version_and_its_bundle_are_measured_alike(candidate: Version, shards: str) -> None:
    from flows.evaluate import evaluate, evaluate_model

    result = evaluate(candidate.uri, shards)
    assert (result["model"], result["split"]) == ("models:/candidates/1", "val")
    alone = evaluate_bundle(versions.load(candidate.uri), shards)
    assert {"miou", "pixel_accuracy", "per_class_iou", "samples"} < result.keys()
    assert result["miou"] == pytest.approx(alone.scores.miou)
    assert result["samples"] == alone.samples
    folder = str(versions.fetch(candidate))
    assert evaluate(folder, shards, split="train")["samples"] > alone.samples
    evaluation = evaluate_model(folder, shards, "val", keep_images=True).evaluation
    assert evaluation.images is not None
    assert len(evaluation.images) == alone.samples
    assert evaluation.confusion.equal(evaluation.images.sum(0))
    assert evaluation.confusion.equal(alone.confusion)
    assert evaluation.images_per_second > 0
