import math

import pytest
import torch

from vitseg.training.progress import Best, chosen_row, mark_chosen


def weights(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor([value])}


def after(*rows: tuple[int, float]) -> Best:
    best = Best()
    for number, (epoch, score) in enumerate(rows):
        best.consider({"epoch": epoch, "val/miou": score}, weights(number))
    return best


def test_the_best_epoch_is_kept_with_its_weights_and_what_came_after_is_counted() -> None:
    best = after((1, 0.3), (2, 0.6), (3, 0.5), (4, math.nan))
    assert best.state() == {"epoch": 2, "score": 0.6, "since": 2}
    assert best.weights["w"].item() == 1


@pytest.mark.parametrize(("whole", "epoch", "score"), [(0.5, 2, 0.5), (0.7, 2, 0.7), (math.nan, 3, 0.1)])
def test_an_epoch_that_was_cut_and_is_whole_now_counts_as_it_is_now(whole: float, epoch: int, score: float) -> None:
    """The history has no row of the part: its score must not stand for weights that are told with another."""
    best = after((1, 0.3), (2, 0.6), (2, whole), (3, 0.1))
    assert (best.epoch, best.score) == (epoch, score)
    rows = [{"epoch": 1, "val/miou": 0.3}, {"epoch": 2, "val/miou": whole}, {"epoch": 3, "val/miou": 0.1}]
    assert chosen_row(mark_chosen(rows, best.epoch))["val/miou"] == best.score


def test_a_change_to_the_weights_after_an_epoch_does_not_change_what_is_kept() -> None:
    best, changing = Best(), weights(1.0)
    best.consider({"epoch": 1, "val/loss": 2.0}, changing)
    changing["w"] += 1
    assert best.weights["w"].item() == 1
    assert best.score == -2.0
