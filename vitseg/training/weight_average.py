"""The exponential moving average of a model's weights."""

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class WeightAverage(AveragedModel):
    """A copy of a model whose weights follow its own.

    After n updates min(decay, (1 + n) / (10 + n)) of the average stays, so that the first weights are soon forgotten, as in
    https://www.tensorflow.org/api_docs/python/tf/train/ExponentialMovingAverage.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model)
        self.decay = decay

    def update_parameters(self, model: nn.Module) -> None:
        """Move the average towards a model's weights."""
        updates = int(self.n_averaged)
        self.multi_avg_fn = get_ema_multi_avg_fn(min(self.decay, (1 + updates) / (10 + updates)))
        super().update_parameters(model)
