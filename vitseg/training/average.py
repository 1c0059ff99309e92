"""The exponential moving average of a model's weights."""

from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


def averaged(model: nn.Module, decay: float) -> AveragedModel | None:
    """Return a copy of a model whose `update_parameters` lets it follow; None where the decay is 0.

    Of the average so far, min(decay, (1 + n) / (10 + n)) stays after n updates: what the weights were at the start is
    forgotten soon, as in https://www.tensorflow.org/api_docs/python/tf/train/ExponentialMovingAverage.
    """
    if not decay:
        return None

    @torch.no_grad()
    def follow(means: Any, weights: Any, updates: Any) -> None:
        kept = min(decay, (1 + float(updates)) / (10 + float(updates)))
        torch._foreach_lerp_(means, weights, 1 - kept)

    return AveragedModel(model, multi_avg_fn=follow)
