"""The exponential moving average of a model's weights."""

import copy

import torch
from torch import nn


class Average:
    """A model's copy whose weights follow its own; buffers are constants in these models.

    Of the average so far, min(decay, (1 + n) / (10 + n)) stays after n updates: what the weights were at the start is
    forgotten soon, as in https://www.tensorflow.org/api_docs/python/tf/train/ExponentialMovingAverage.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module, self.decay = copy.deepcopy(model), decay

    @torch.no_grad()
    def follow(self, model: nn.Module, updates: int) -> None:
        """Move the average towards a model's weights, as so many times before."""
        kept = min(self.decay, (1 + updates) / (10 + updates)) if updates else 0.0
        torch._foreach_lerp_(list(self.module.parameters()), list(model.parameters()), 1 - kept)
