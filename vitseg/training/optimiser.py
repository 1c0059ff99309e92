"""AdamW as in the paper, with the usual care: no decay on norms, biases and embeddings; warm-up and cosine by step."""

import math

import torch
from torch import nn

from vitseg.recipe import OptimiserRecipe


def build_optimiser(model: nn.Module, recipe: OptimiserRecipe) -> torch.optim.AdamW:
    """Return AdamW with two parameter groups: matrices decay, everything else (and embeddings) does not."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (decayed if parameter.ndim >= 2 and not name.endswith(("position", "offset_bias")) else free).append(parameter)
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=next(model.parameters()).is_cuda)


def learning_rate(recipe: OptimiserRecipe, step: int, steps: int) -> float:
    """Return the learning rate of a step (0 … steps - 1): linear warm-up, then cosine to 0, or constant."""
    warmup = math.ceil(recipe.warmup_share * steps)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    if recipe.schedule == "constant":
        return recipe.learning_rate
    progress = (step - warmup) / max(1, steps - warmup)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
