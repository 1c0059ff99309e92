"""The training loop.

Every random choice of a step is a function of (seed, step): which samples, how they are changed, what dropout drops.
So a job that was killed and started again takes the same steps as one that was not.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from vitseg import dist
from vitseg.checkpoint import capture, newest_checkpoint, restore, write_checkpoint
from vitseg.data.augment import augment
from vitseg.data.loader import Batch, Batches
from vitseg.errors import TrainingError
from vitseg.evaluation import Task, evaluate_batches
from vitseg.losses import counted
from vitseg.model.segmenter import Segmenter
from vitseg.recipe import Recipe
from vitseg.storage import Store
from vitseg.training.optimiser import build_optimisers, learning_rate


class Recorder:
    """Hears how training goes. This one does nothing with it: the recorder of every rank but 0."""

    def step(self, step: int, values: dict[str, float]) -> None:
        """Hear of a step that is to be logged."""

    def epoch(self, row: dict[str, Any]) -> None:
        """Hear of an epoch that is trained and validated."""

    def panels(self, model: nn.Module, epoch: int) -> None:
        """Draw the fixed validation images as the model sees them now."""

    def close(self) -> None:
        """Deliver what is still under way."""


@dataclass
class Sums:
    """Totals over the pixels of all ranks: the loss and what divides it, right pixels and those with a class."""

    loss: float = 0.0
    count: float = 0.0
    correct: float = 0.0
    valid: float = 0.0

    def __add__(self, other: "Sums") -> "Sums":
        count, valid = self.count + other.count, self.valid + other.valid
        return Sums(self.loss + other.loss, count, self.correct + other.correct, valid)

    def means(self, prefix: str = "") -> dict[str, float]:
        """Return mean loss, and pixel accuracy where pixels have classes."""
        means = {f"{prefix}loss": self.loss / (self.count or 1.0)}
        return means | ({f"{prefix}pixel_accuracy": self.correct / self.valid} if self.valid else {})


@dataclass
class Trainer:
    """One rank's view of a training job; `run` is the story.

    Attributes:
        recipe: what to compute.
        world: this rank's place, and the device the model is on.
        model: takes images uint8 (B, 3, H, W), and in training the truth too, if it has a true `wants_truth`.
        task: target, classes and colours.
        data: this rank's training batches.
        validation: this rank's validation batches.
        checkpoints: the store of checkpoints.
        recorder: who is told.
        alive: called after each step and each validated batch: whoever watches for hung ranks is told.
    """

    recipe: Recipe
    world: dist.World
    model: nn.Module
    task: Task
    data: Batches
    validation: Batches
    checkpoints: Store
    recorder: Recorder
    alive: Callable[[], None] = lambda: None
    finished: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)

    def run(self) -> list[dict[str, Any]]:
        """Train from the newest checkpoint to the last epoch; return a row of metrics an epoch.

        Raises:
            TrainingError: the loss is no longer a finite number; all ranks stop together.
        """
        run, per_epoch = self.recipe.run, self.data.steps_per_epoch
        self.optimisers = build_optimisers(self.model, self.recipe.optimiser)
        sums = self._resume()
        replica = dist.replicate(self.model, self.world)
        for epoch in range(self.finished // per_epoch, run.epochs):
            clock = _Clock()
            for batch in clock.watch(self.data.epoch(epoch, start_step=self.finished % per_epoch)):
                rate = learning_rate(self.recipe.optimiser, self.finished, run.epochs * per_epoch)
                new = self._step(replica, batch, rate)
                sums += new
                self.finished += 1
                self.alive()
                if self.finished % run.log_steps == 0:
                    speed = {"images_per_second": self.recipe.data.batch_size * clock.rate, "data_wait": clock.waited}
                    self.recorder.step(self.finished, {**new.means(), "learning_rate": rate, **speed})
                if self.finished % run.checkpoint_steps == 0 and self.finished % per_epoch:
                    self._save(sums)
            self._close_epoch(epoch + 1, sums)
            sums = Sums()
            self._save(sums)
        return self.history

    def _step(self, replica: nn.Module, batch: Batch, rate: float) -> Sums:
        """Take one optimiser step on this rank's part of a global batch.

        The loss is divided by the count of the *whole* batch, over ranks and accumulated parts (its valid pixels, or
        their weights), so that the gradient does not depend on how the batch is cut up.
        """
        torch.manual_seed((self.recipe.run.seed * 1_000_003 + self.finished) * 4_093 + self.world.rank)
        device, parts = self.world.device, self.recipe.optimiser.accumulate
        images, truth = self._inputs(batch)
        count, valid = dist.sum_over_ranks(self._counts(truth))
        # DDP averages over ranks: times world size makes it the sum that the global count divides.
        scale = self.world.world_size / count.where(count > 0, 1)
        sums = torch.zeros(2, dtype=torch.float64, device=device)
        bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
        for part, (some, theirs) in enumerate(zip(images.chunk(parts), truth.chunk(parts), strict=True)):
            with dist.gradients_stay_local(replica, part + 1 < parts):
                loss, right = self._loss(replica, some, theirs, bf16)
                (loss * scale.to(loss.dtype)).backward()
            sums += torch.stack([loss.detach().double(), right.double()])
        loss_sum, correct = dist.sum_over_ranks(sums).tolist()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.optimiser.clip_norm or math.inf)
        if not math.isfinite(loss_sum) or not math.isfinite(norm.item()):
            raise TrainingError(
                f"loss {loss_sum} with a gradient of norm {norm.item()} at step {self.finished} (learning rate {rate:.2g}, "
                f"samples {', '.join(batch.keys[:4])} …): lower optimiser.learning_rate or look at these samples"
            )
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        return Sums(loss_sum, count.item(), correct, valid.item())

    def _inputs(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a batch's images (B, 3, H, W) on the device, and what the model's answers are compared with (B, …)."""
        images, labels = (part.to(self.world.device, non_blocking=True) for part in (batch.images, batch.labels))
        return augment(
            images, labels, self.recipe.augment, self.data.pixels_per_class,
            seed=self.recipe.run.seed, step=self.finished,
            rows=range(self.world.rank, self.recipe.data.batch_size, self.world.world_size),  # as `order.rank_rows`
        )  # fmt: skip

    def _counts(self, truth: torch.Tensor) -> torch.Tensor:
        """Return what divides the loss of a batch, and how many of its pixels have a class: float64 (2,)."""
        valid = counted(truth).sum() if self.task.classes else truth.new_zeros(())
        return torch.stack([self.task.count(truth).double(), valid.double()])

    def _loss(
        self, replica: nn.Module, images: torch.Tensor, truth: torch.Tensor, bf16: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the sum of the loss over a part of a batch, and how many pixels are right."""
        # Teacher forcing: the loss and accuracy of such models flatter in training, not in validation.
        taught = []
        if isinstance(self.model, Segmenter) and self.model.wants_truth:
            taught = [self.task.teach(truth, self.model.channels)]
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            output = replica(images, *taught)
        loss, _ = self.task.loss(output, truth)
        with torch.no_grad():
            return loss, (self.task.predict(output) == truth).sum() if self.task.classes else torch.zeros_like(loss)

    def _validate(self) -> dict[str, float]:
        """Return the metrics of an epoch's end."""
        found = evaluate_batches(self.model, self.validation.epoch(0), self.task, progress=lambda images: self.alive())
        return found.flat("val/")

    def _close_epoch(self, epoch: int, sums: Sums) -> None:
        run = self.recipe.run
        last = epoch == run.epochs
        row: dict[str, Any] = {"epoch": epoch, "step": self.finished, **sums.means("train/")}
        if last or epoch % run.evaluate_epochs == 0:
            row |= self._validate()
        self.history.append(row)
        self.recorder.epoch(row)
        if last or epoch % run.panel_epochs == 0:
            self.recorder.panels(self.model, epoch)

    def _save(self, sums: Sums) -> None:
        if self.world.rank == 0:
            state = {"history": self.history, "sums": vars(sums)}
            checkpoint = capture(self.model, self.optimisers, self.finished, state)
            write_checkpoint(self.checkpoints, checkpoint, self.recipe.run.keep_checkpoints)

    def _resume(self) -> Sums:
        checkpoint = newest_checkpoint(self.checkpoints)
        dist.barrier()  # nobody writes a new one before everybody has read the same
        dist.check_equal(checkpoint.step if checkpoint else 0, "the newest checkpoint")
        if checkpoint is None:
            return Sums()
        restore(checkpoint, self.model, self.optimisers)
        self.finished, self.history = checkpoint.step, checkpoint.state["history"]
        return Sums(**checkpoint.state["sums"])


class _Clock:
    """Measures batches a second since it was made, and the share of that time spent waiting for them."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._waiting = 0.0
        self._batches = 0

    def watch(self, batches: Any) -> Any:
        iterator = iter(batches)
        while True:
            start = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._waiting += time.perf_counter() - start
            self._batches += 1
            yield batch

    @property
    def rate(self) -> float:
        return self._batches / (time.perf_counter() - self._start)

    @property
    def waited(self) -> float:
        return self._waiting / (time.perf_counter() - self._start)
