"""Two models on the same images: what differs, and whether the difference is significant."""

import dataclasses

import pytest
import torch

from vitseg.errors import DataError
from vitseg.metrics.scores import Scores
from vitseg.registry.comparison import differences

CLASSES = ("road", "car", "pole")
PIXELS = 400


def images(count: int, right: float, seed: int, *, spread: float = 0.1, labels: int = 0) -> torch.Tensor:
    """Return confusion matrices of a model that is right in about this share of each image's pixels."""
    shares = torch.Generator().manual_seed(labels)
    mistakes = torch.Generator().manual_seed(seed)
    found = torch.zeros(count, 3, 3, dtype=torch.int64)
    for matrix in found:
        sizes = torch.multinomial(torch.tensor([0.6, 0.3, 0.1]), PIXELS, replacement=True, generator=shares).bincount(
            minlength=3
        )
        of_image = min(max(right + spread * float(torch.randn((), generator=mistakes)), 0.0), 1.0)
        for label, size in enumerate(sizes.tolist()):
            matrix[label, label] = round(size * of_image)
            matrix[label, (label + 1) % 3] = size - round(size * of_image)
    return found


def test_each_side_is_the_score_of_all_images_together() -> None:
    a, b = images(20, 0.7, 1), images(20, 0.8, 2)
    found = differences(a, b, CLASSES)
    assert list(found) == ["miou", "pixel_accuracy", "iou/road", "iou/car", "iou/pole"]
    for side, matrices in (("a", a), ("b", b)):
        scores = Scores.from_confusion(matrices.sum(0))
        wanted = [scores.miou, scores.pixel_accuracy, *scores.per_class_iou]
        assert [getattr(row, side) for row in found.values()] == pytest.approx(wanted)
    for row in found.values():
        assert row.delta == pytest.approx(row.b - row.a)
        assert row.low <= row.delta <= row.high


def test_a_model_is_no_better_than_itself() -> None:
    same = images(10, 0.7, 1)
    for row in differences(same, same, CLASSES).values():
        assert (row.delta, row.low, row.high, row.is_significant) == (0, 0, 0, False)


def test_what_is_better_everywhere_is_significant_and_what_one_image_makes_is_not() -> None:
    a = images(20, 0.6, 1, spread=0)
    assert differences(a, images(20, 0.7, 2, spread=0), CLASSES)["miou"].is_significant
    assert differences(images(20, 0.7, 2, spread=0), a, CLASSES)["miou"].is_significant
    one = a.clone()
    one[3] = torch.diag(a[3].sum(1))
    found = differences(a, one, CLASSES)["miou"]
    assert found.delta > 0
    assert not found.is_significant


def test_intervals_hold_what_they_promise() -> None:
    """Of two models that are equally good, about one pair in twenty may look different on thirty images."""
    trials = 150
    wrong = 0
    for seed in range(trials):
        pair = [images(30, 0.7, 2 * seed + side, labels=seed) for side in (1000, 1001)]
        wrong += differences(*pair, CLASSES)["miou"].is_significant
    assert 0 < wrong <= 0.12 * trials


def test_a_class_that_is_nowhere_has_no_difference() -> None:
    a = images(5, 0.7, 1)
    a[:, 2] = a[:, :, 2] = 0
    found = differences(a, a.clone(), CLASSES)
    assert dataclasses.astuple(found["iou/pole"]) == (None, None, None, None, None)
    assert not found["iou/pole"].is_significant
    assert found["miou"].a == pytest.approx(Scores.from_confusion(a.sum(0)).miou)


def test_only_the_same_images_compare() -> None:
    with pytest.raises(DataError, match="different labels"):
        differences(images(5, 0.7, 1), images(5, 0.7, 1, labels=9), CLASSES)
    with pytest.raises(DataError, match="5 and 4 images"):
        differences(images(5, 0.7, 1), images(4, 0.7, 1), CLASSES)
    nothing = torch.zeros(0, 3, 3, dtype=torch.int64)
    with pytest.raises(DataError, match="0 and 0"):
        differences(nothing, nothing, CLASSES)
