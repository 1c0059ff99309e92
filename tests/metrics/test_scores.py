import io
import json
import math

import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official  # noqa: N813
from cityscapesscripts.helpers.labels import id2label
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from vitseg.data.label_values import read_ids
from vitseg.errors import DataError
from vitseg.labels import CITYSCAPES, train_classes
from vitseg.metrics.scores import (
    Scores,
    confusion_matrix,
    confusion_of,
    count_pairs,
    select_classes,
    strongest_channel_agrees,
)

CLASSES = 4
IDS = st.integers(0, CLASSES - 1)
SHAPE = (2, 3, 4)
TRUTHS = arrays.arrays(np.uint8, SHAPE, elements=IDS | st.just(255))
PREDICTIONS = arrays.arrays(np.uint8, SHAPE, elements=IDS)


@given(truth=TRUTHS, predicted=PREDICTIONS)
def test_scores_are_those_of_a_loop_over_pixels(truth, predicted):
    matrix = confusion_matrix(torch.from_numpy(truth), torch.from_numpy(predicted), CLASSES)
    scores = Scores.from_confusion(matrix)
    right = labeled = 0
    counts = [{"tp": 0, "fp": 0, "fn": 0} for _ in range(CLASSES)]
    for true, guess in zip(truth.flat, predicted.flat, strict=True):
        if true == 255:
            continue
        labeled += 1
        right += int(true == guess)
        if true == guess:
            counts[true]["tp"] += 1
        else:
            counts[guess]["fp"] += 1
            counts[true]["fn"] += 1
    ious = [c["tp"] / sum(c.values()) if sum(c.values()) else None for c in counts]
    assert list(scores.per_class_iou) == pytest.approx(ious)
    if labeled:
        assert scores.pixel_accuracy == pytest.approx(right / labeled)
        assert scores.miou == pytest.approx(np.mean([iou for iou in ious if iou is not None]))
    else:
        assert math.isnan(scores.pixel_accuracy)
        assert math.isnan(scores.miou)
    json.dumps(scores.to_json(), allow_nan=False)


def official_matrix(truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, official.CArgs]:
    """Return the official confusion matrix of label-id maps uint8 (H, W), and the arguments that its scores take."""

    def png(ids: np.ndarray) -> io.BytesIO:
        Image.fromarray(ids).save(file := io.BytesIO(), "PNG")
        return file

    args = official.CArgs()
    args.evalInstLevelScore = args.evalPixelAccuracy = False
    matrix = official.generateMatrix(args)
    official.evaluatePair(png(predicted), png(truth), matrix, {}, {}, args)
    return matrix, args


LABEL_IDS = [label.id for label in CITYSCAPES if label.id >= 0]
EVALUATED = [label.id for label in train_classes()]


@st.composite
def label_maps(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Draw maps of label ids from a few of all ids, ignored ones among them, and predictions from a few classes."""
    true, guessed = (
        draw(st.lists(st.sampled_from(ids), min_size=1, max_size=6, unique=True)) for ids in (LABEL_IDS, EVALUATED)
    )
    maps = (arrays.arrays(np.uint8, (6, 7), elements=st.sampled_from(ids)) for ids in ([*true, *guessed], guessed))
    truth, predicted = (draw(one) for one in maps)
    return truth, predicted


@given(label_maps())
def test_scores_are_those_of_the_official_evaluation(maps):
    truth, predicted = maps
    table = read_ids(np.arange(256), CITYSCAPES).train_ids
    ours = Scores.from_confusion(confusion_matrix(torch.tensor(table[truth]), torch.tensor(table[predicted]), 19))
    matrix, args = official_matrix(truth, predicted)
    theirs = {id2label[i].trainId: official.getIouScoreForLabel(i, matrix, args) for i in EVALUATED}
    ious = [math.nan if iou is None else iou for iou in ours.per_class_iou]
    assert ious == pytest.approx([theirs[train_id] for train_id in range(19)], nan_ok=True, rel=1e-12)
    everything = {i: official.getIouScoreForLabel(i, matrix, args) for i in args.evalLabels}
    assert ours.miou == pytest.approx(official.getScoreAverage(everything, args), nan_ok=True, rel=1e-12)
    # The official module's own pixel accuracy counts the ignored pixels (`np.in1d(…, invert=True)`), and is off by
    # default: the definition is applied to its matrix instead.
    rows = matrix[[i for i in args.evalLabels if not id2label[i].ignoreInEval]]
    right = sum(int(matrix[i, i]) for i in EVALUATED)
    accuracy = right / int(rows.sum()) if rows.sum() else math.nan
    assert ours.pixel_accuracy == pytest.approx(accuracy, nan_ok=True, rel=1e-12)


def test_labels_that_are_evaluated_are_the_official_ones():
    assert [i for i, label in sorted(id2label.items()) if i >= 0 and not label.ignoreInEval] == EVALUATED
    assert {label.id: (label.name, label.color) for label in CITYSCAPES} == {
        i: (label.name, label.color) for i, label in id2label.items()
    }


@given(truth=TRUTHS, predicted=PREDICTIONS)
def test_matrices_of_parts_add_up(truth, predicted):
    truth, predicted = torch.from_numpy(truth), torch.from_numpy(predicted)
    parts = [confusion_matrix(truth[i], predicted[i], CLASSES) for i in range(2)]
    whole = confusion_matrix(truth, predicted, CLASSES)
    assert torch.equal(parts[0] + parts[1], whole)
    assert int(whole.sum()) == int((truth != 255).sum())


def test_rows_are_ground_truth_and_columns_predictions():
    matrix = confusion_matrix(torch.tensor([0, 0, 0, 1, 255]), torch.tensor([0, 1, 1, 1, 0]), 3)
    assert matrix.dtype == torch.int64
    assert matrix.tolist() == [[1, 2, 0], [0, 1, 0], [0, 0, 0]]


def test_a_class_that_is_nowhere_is_left_out_of_the_mean():
    scores = Scores.from_confusion(torch.tensor([[1, 2, 0], [0, 1, 0], [0, 0, 0]]))
    assert scores.per_class_iou == pytest.approx((1 / 3, 1 / 3, None))
    assert scores.miou == pytest.approx(1 / 3)
    assert scores.pixel_accuracy == 0.5
    assert scores.to_json()["per_class_iou"][2] is None


def test_a_class_that_is_only_predicted_counts_as_zero():
    scores = Scores.from_confusion(torch.tensor([[3, 1], [0, 0]]))
    assert scores.per_class_iou == (0.75, 0.0)
    assert scores.miou == 0.375


def test_where_nothing_is_labeled_there_is_no_score():
    matrix = confusion_matrix(torch.full((2, 2), 255), torch.zeros(2, 2, dtype=torch.uint8), 3)
    assert Scores.from_confusion(matrix).to_json() == {
        "miou": None, "pixel_accuracy": None, "per_class_iou": [None, None, None]
    }  # fmt: skip


@pytest.mark.parametrize("bad", [-1, 3, 255])
@pytest.mark.parametrize("truth", [0, 255])
def test_predictions_out_of_range_are_refused_even_where_nothing_is_labeled(bad, truth):
    with pytest.raises(DataError, match="prediction is outside 0-2"):
        confusion_matrix(torch.tensor([truth, 0]), torch.tensor([bad, 0]), 3)


def test_labels_out_of_range_and_other_shapes_are_refused():
    with pytest.raises(DataError, match="label is outside 0-2"):
        confusion_matrix(torch.tensor([3]), torch.tensor([0]), 3)
    with pytest.raises(DataError, match="differ in shape"):
        confusion_matrix(torch.zeros(2, 2), torch.zeros(4), 3)


def test_uint8_ids_of_many_classes_do_not_overflow():
    matrix = confusion_matrix(torch.tensor([254], dtype=torch.uint8), torch.tensor([253], dtype=torch.uint8), 255)
    assert int(matrix[254, 253]) == 1


def test_the_strongest_channel_agrees_and_ties_take_the_first():
    pixels = [  # predicted, true, agree
        ((0.1, 0.9, 0.3), (0.4, 0.5, 0.2), True),
        ((0.1, 0.9, 0.3), (0.4, 0.5, 0.6), False),
        ((0.5, 0.5, 0.5), (0.6, 0.6, 0.1), True),  # gray and yellow: red
        ((0.5, 0.5, 0.5), (0.1, 0.6, 0.6), False),  # red and green
        ((0.1, 0.6, 0.6), (0.0, 1.0, 0.0), True),
        ((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), True),
    ]
    colors, truth = (torch.tensor([row[side] for row in pixels]).T.reshape(1, 3, 2, 3) for side in (0, 1))
    assert strongest_channel_agrees(colors, truth).flatten().tolist() == [row[2] for row in pixels]
    with pytest.raises(DataError, match="differ in shape"):
        strongest_channel_agrees(colors, truth[..., :2])


def test_other_classes_are_merged_and_never_right() -> None:
    matrix = torch.tensor([[5, 1, 2], [3, 7, 4], [6, 8, 9]])
    merged = select_classes(matrix, [1, None, 0], 2)
    assert merged.tolist() == [[9, 6, 0, 8], [2, 5, 0, 1], [4, 3, 0, 7], [0, 0, 0, 0]]
    assert merged.sum() == matrix.sum()
    scores = Scores.from_confusion(merged, 2)
    assert scores.per_class_iou == pytest.approx((9 / (9 + 14 + 6), 5 / (5 + 3 + 9)))  # as in the whole matrix
    assert Scores.from_confusion(matrix).per_class_iou == pytest.approx((5 / 17, 7 / 23, 9 / 29))
    assert scores.pixel_accuracy == pytest.approx(14 / (23 + 8))  # of the pixels of these classes
    assert torch.equal(select_classes(torch.stack([matrix, matrix]), [1, None, 0], 2)[1], merged)


def test_counts_of_batches_add_up_before_anybody_looks_at_them():
    truth, predicted = torch.tensor([0, 2, 255, 1]), torch.tensor([0, 1, 2, 1])
    counts = count_pairs(truth, predicted, 3) + count_pairs(truth, predicted, 3)
    assert torch.equal(confusion_of(counts), 2 * confusion_matrix(truth, predicted, 3))
    assert int(counts.sum()) == 8
    with pytest.raises(DataError, match="label is outside 0-2, at 2 pixels"):
        confusion_of(counts + count_pairs(torch.tensor([3, 7, 255]), torch.tensor([0, 1, 2]), 3))
