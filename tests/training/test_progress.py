import math

import torch

from vitseg.training.progress import Best


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


def test_a_change_to_the_weights_after_an_epoch_does_not_change_what_is_kept() -> None:
    best, changing = Best(), weights(1.0)
    best.consider({"epoch": 1, "val/loss": 2.0}, changing)
    changing["w"] += 1
    assert best.weights["w"].item() == 1
    assert best.score == -2.0
