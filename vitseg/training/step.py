"""One optimizer step on a global batch: forward and backward passes, clipping, update."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vitseg import dist
from vitseg.data.loader import Batch
from vitseg.precision import autocast_type
from vitseg.training.cuda_graph import GraphedPass, Pass
from vitseg.training.objectives.base import Objective
from vitseg.training.optimizer import WeightAverage, build_optimizers
from vitseg.training.progress import Totals


class Counts(NamedTuple):
    """What ranks add up before they compute gradients, float64 scalars.

    `loss` divides the loss, `valid` are pixels that have a class. `time_used`, the share of the time budget, is filled in
    by rank 0 alone: all ranks go by its clock.
    """

    loss: Tensor
    valid: Tensor
    time_used: Tensor

    def sum_over_ranks(self) -> "Counts":
        """Return the sums, in one message."""
        return Counts(*dist.sum_over_ranks(torch.stack(self)))


@dataclass(frozen=True)
class StepResult:
    """Sums over the whole batch, the gradient's norm, and the losses of this rank's parts of the batch, float64 (parts,).

    `diverged`: loss or gradient are not finite, and the weights were not changed.
    """

    totals: Totals
    time_used: float
    gradient_norm: float
    part_losses: Tensor
    diverged: bool


class Learner:
    """A model and what changes it: optimizers, gradient scaler and, where the recipe says so, the average of its weights."""

    def __init__(self, objective: Objective, world: dist.World) -> None:
        self.objective, self.world = objective, world
        self.model, self.recipe = objective.model, objective.recipe
        decay = self.recipe.optimizer.average
        self.average = WeightAverage(self.model, decay) if decay else None
        self.dtype = autocast_type(self.recipe.run.precision, world.device)
        self.optimizers = build_optimizers(self.model, self.recipe.optimizer, self.dtype)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=self.dtype is torch.float16)
        self.replica = self.model
        # Backward passes of DDP, which talk to other ranks, can't be part of a graph.
        self.graphed = self.recipe.run.cuda_graph and world.device.type == "cuda" and objective.graphable
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.compute_gradients: Pass = self._backward
        if self.graphed:
            self.compute_gradients = GraphedPass(self._backward, self.parameters)

    @property
    def eval_model(self) -> nn.Module:
        """The model that is validated, shown and kept: the weights' average where there is one."""
        return self.average.module if self.average else self.model

    def connect(self) -> None:
        """Add up gradients over ranks from now on; call it when the model has the weights that it starts from."""
        if self.graphed:
            dist.copy_from_first(self.model.state_dict().values())  # as DDP does
        else:
            self.replica = dist.replicate(self.model, self.world)

    def take_step(self, batch: Batch, *, step: int, learning_rate: float, time_used: float) -> StepResult:
        """Take one optimizer step on this rank's part of a global batch.

        The loss is divided by the count of the *whole* batch, over ranks and accumulated parts, so that the gradient does
        not depend on how the batch is cut up. `step` is the number of steps before this one.
        """
        seed = np.random.SeedSequence(self.recipe.run.seed, spawn_key=(step, self.world.rank))
        torch.manual_seed(int(seed.generate_state(1, np.uint64)[0]))  # for dropout and stochastic depth
        rows = range(self.world.rank, self.recipe.data.batch_size, self.world.world_size)  # as `order.rank_rows`
        images, targets, *more = self.objective.inputs(batch, step, rows)
        loss_count, valid = (count.double() for count in self.objective.counts(targets))
        clock = torch.full_like(loss_count, time_used if self.world.rank == 0 else 0.0)
        counts = Counts(loss_count, valid, clock).sum_over_ranks()
        losses, correct = self.compute_gradients(counts.loss, images, targets, *more)
        if self.graphed:
            dist.sum_gradients(self.parameters)
        sums = dist.sum_over_ranks(torch.stack([losses.sum(), correct]))
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.recipe.optimizer.clip_norm or math.inf)
        # The one place where a step waits for the device.
        count, labeled, used, loss, right, size = dist.read_numbers(torch.stack([*counts, *sums, norm.double()]))
        # Where float16 overflows, the step is left out, and the scaler scales less from then on.
        diverged = not math.isfinite(loss) or not (math.isfinite(size) or self.scaler.get_scale() > 1)
        if not diverged:
            self._update(learning_rate, overflow=not math.isfinite(size))
        return StepResult(Totals(loss, count, right, labeled), used, size, losses, diverged)

    def _backward(self, count: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Compute gradients from `Objective.inputs`; return the loss of each part, and how many pixels are correct; float64.

        It may be recorded (see `cuda_graph`): nothing in here waits for the device.
        """
        parts = self.recipe.optimizer.accumulate
        # DDP averages over ranks: times world size makes it the sum that the global count divides.
        scale = (1 if self.graphed else self.world.world_size) / count.where(count > 0, 1)
        losses, correct = [], torch.zeros_like(count)
        for part, some in enumerate(zip(*(each.chunk(parts) for each in inputs), strict=True)):
            with dist.gradients_stay_local(self.replica, part + 1 < parts):
                arguments = self.objective.model_inputs(*some)
                with torch.autocast(count.device.type, self.dtype, enabled=self.dtype is not torch.float32):
                    output = self.replica(*arguments)
                loss, right = self.objective.loss(output, some[0], some[1])
                dist.backward(self.scaler.scale(loss * scale.to(loss.dtype)))
            losses.append(loss.detach().double())
            correct += right
        return torch.stack(losses), correct

    def _update(self, learning_rate: float, overflow: bool) -> None:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * group.get("share", 1.0)  # checkpoints of earlier versions have none
            if not overflow:  # known by now: the scaler's own step would ask the device
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.scaler.update()
        if self.average and not overflow:
            self.average.update_parameters(self.model)


def bad_samples(batch: Batch, part_losses: Tensor) -> list[str]:
    """Return the keys of the parts of a batch whose loss, of (parts,), is not finite."""
    size = len(batch.keys) // len(part_losses)
    bad = [number for number, loss in enumerate(part_losses.tolist()) if not math.isfinite(loss)]
    return [key for number in bad for key in batch.keys[number * size : (number + 1) * size]]
