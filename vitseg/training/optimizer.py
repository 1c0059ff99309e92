"""The optimizers, the learning rate of each step, and the moving average of the weights."""

import math
import re
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vitseg.recipe import OptimizerRecipe
from vitseg.training.muon import StackedMuon

_ENCODER = "encoder."
_BLOCK = re.compile(rf"{_ENCODER}blocks\.(\d+)\.")
_EMBEDDINGS = ("position", "offset_bias", "registers")  # matrices by their shape alone


def build_optimizers(
    model: nn.Module, recipe: OptimizerRecipe, computes_in: torch.dtype = torch.float32
) -> list[Optimizer]:
    """Return what takes a step together: AdamW alone, as in the paper, or Muon for the matrices and AdamW for the rest.

    Muon (https://kellerjordan.github.io/posts/muon) makes what a step adds to a matrix turn all directions equally, so
    that the few large ones of a gradient don't drown the others; what it does to a matrix is scaled to the size of a
    step of AdamW (https://arxiv.org/abs/2502.16982), so that one learning rate is right for both. It isn't meant for
    embeddings and the last layer, which stay with AdamW. Embeddings, norms and biases don't decay.

    `share` of a group is its part of the learning rate: see `encoder_rate`. `computes_in` is the type of forward passes.
    """
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    last = next((parameter for parameter in reversed(learning.values()) if parameter.ndim == 2), None)
    groups: dict[str, dict[float, list[nn.Parameter]]] = {"decayed": {}, "free": {}, "turned": {}}
    for name, parameter in learning.items():
        share, kind = 1.0, "decayed"
        if recipe.encoder_rate and name.startswith(_ENCODER):
            share = encoder_rate(recipe, name, model) / recipe.learning_rate
        if parameter.ndim < 2 or name.endswith(_EMBEDDINGS):
            kind = "free"
        elif recipe.name == "muon" and parameter.ndim == 2 and parameter is not last:
            kind = "turned"
        groups[kind].setdefault(share, []).append(parameter)

    def listed(kind: str, decay: float) -> list[dict[str, Any]]:
        rate = recipe.learning_rate
        return [
            {"params": parameters, "share": share, "lr": rate * share, "weight_decay": decay}
            for share, parameters in (groups[kind] or {1.0: []}).items()
        ]

    decay = recipe.weight_decay
    optimizers: list[Optimizer] = [
        AdamW([*listed("decayed", decay), *listed("free", 0.0)], fused=next(model.parameters()).is_cuda)
    ]
    if groups["turned"]:
        # A processor on which the model was found to be faster in float32 multiplies these matrices faster in it, too.
        slow = computes_in is torch.float32 and not next(model.parameters()).is_cuda
        turn_in = torch.float32 if slow else torch.bfloat16
        optimizers.append(StackedMuon(listed("turned", decay), turn_in=turn_in))
    return optimizers


def encoder_rate(recipe: OptimizerRecipe, name: str, model: nn.Module) -> float:
    """Return the peak learning rate of a parameter of the encoder: lower, the further it is from the decoder.

    What published weights know in general is in their first blocks, and should change least (BEiT,
    https://arxiv.org/abs/2106.08254). The last norm learns at `encoder_rate`, each block at `layer_decay` times the rate
    of what follows, the embedding of patches at the rate of a block before the first.
    """
    blocks = 1 + max(int(found[1]) for other, _ in model.named_parameters() if (found := _BLOCK.match(other)))
    found = _BLOCK.match(name)
    after = blocks - int(found[1]) if found else 0 if name.startswith(f"{_ENCODER}norm.") else blocks + 1
    return recipe.encoder_rate * recipe.layer_decay**after


def learning_rate(recipe: OptimizerRecipe, step: int, steps: int, time_used: float = 0.0) -> float:
    """Return the learning rate of a step (0 … steps - 1): linear warm-up, then cosine to 0, or constant.

    Where a share of the time that there is, 0–1, is used before that share of the steps is taken, it falls with the time.
    """
    warmup = math.ceil(recipe.warmup_share * steps)
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    if recipe.schedule == "constant":
        return recipe.learning_rate * rise
    progress = max(0.0, (step - warmup) / max(1, steps - warmup), min(1.0, time_used))
    return recipe.learning_rate * min(rise, 0.5 * (1 + math.cos(math.pi * progress)))


class WeightAverage(AveragedModel):
    """A copy of a model whose weights follow its own: their exponential moving average.

    After n updates min(decay, (1 + n) / (10 + n)) of the average stays, so that the first weights are soon forgotten, as in
    https://www.tensorflow.org/api_docs/python/tf/train/ExponentialMovingAverage.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the average towards a model's weights; buffers of these models never change."""
        updates = int(self.n_averaged)
        kept = min(self.decay, (1 + updates) / (10 + updates)) if updates else 0.0
        pairs = zip(self.module.parameters(), model.parameters(), strict=True)
        averages, weights = zip(*(pair for pair in pairs if pair[1].requires_grad), strict=True)
        get_ema_multi_avg_fn(kept)(averages, weights, updates)
        self.n_averaged += 1
