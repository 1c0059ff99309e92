import math

import torch

from vitseg.training.progress import BestEpoch


def weights(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor([value])}


def after(*rows: tuple[int, float]) -> BestEpoch:
    best = BestEpoch()
    for number, (epoch, score) in enumerate(rows):
        best.update(epoch, score, weights(number))
    return best


def test_the_best_epoch_is_kept_with_its_weights_and_what_came_after_is_counted() -> None:
    best = after((1, 0.3), (2, 0.6), (3, 0.5), (4, math.nan))
    assert best.state() == {"epoch": 2, "score": 0.6, "since": 2}
    assert best.weights["w"].item() == 1


def test_a_change_to_the_weights_after_an_epoch_does_not_change_what_is_kept() -> None:
    best, changing = BestEpoch(), weights(1.0)
    best.update(1, -2.0, changing)
    changing["w"] += 1
    assert best.weights["w"].item() == 1
    assert best.score == -2.0
