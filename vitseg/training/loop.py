"""The training loop.

Every random choice of a step is a function of (seed, step): which samples, how they are changed, what dropout drops.
So a job that was killed and started again takes the same steps as one that was not.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from vitseg import dist
from vitseg.checkpoint import CheckpointWriter, capture, newest_checkpoint, restore
from vitseg.data.augment import augment
from vitseg.data.loader import Batch, Batches
from vitseg.errors import TrainingError, VitsegError
from vitseg.evaluation import Task, evaluate_batches
from vitseg.losses import counted
from vitseg.model.segmenter import Segmenter
from vitseg.recipe import Recipe
from vitseg.storage import Store
from vitseg.training.optimizer import build_optimizers, learning_rate
from vitseg.training.precision import autocast_type
from vitseg.training.progress import Best, Budget, Clock, Recorder, Sums, mark_chosen
from vitseg.training.weight_average import Average

log = logging.getLogger(__name__)


@dataclass
class Trainer:
    """One rank's view of a training job; `run` is the story.

    Attributes:
        recipe: what to compute.
        world: this rank's place, and the device the model is on.
        model: takes images uint8 (B, 3, H, W), and in training the targets too, if its `teacher_forcing` is true.
        task: target, classes and colors.
        data: this rank's training batches.
        validation: this rank's validation batches.
        checkpoints: the store of checkpoints.
        recorder: who is told.
        alive: called after each step and each validated batch: whoever watches for hung ranks is told.
        max_minutes: when time is up, training ends; the learning rate has fallen by then as at the last epoch.
        commit: of the code, for the checkpoints.
        used: share of the time that was used when the last step was taken, equal on all ranks.
        whole: the best of the whole epochs: one in which time was up no longer counts when it goes on.
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
    max_minutes: float | None = None
    commit: str = ""
    finished: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    used: float = 0.0
    best: Best = field(default_factory=Best)
    whole: Best = field(default_factory=Best)
    average: Average | None = None

    def __post_init__(self) -> None:
        """Find out in which numbers to compute, and start the clock."""
        if self.recipe.run.compile:
            self.model.compile()
        self.dtype = autocast_type(self.recipe.run.precision, self.world.device)
        self.scaler = torch.amp.GradScaler(self.world.device.type, enabled=self.dtype is torch.float16)
        self.budget = Budget(self.max_minutes)

    @property
    def judged(self) -> nn.Module:
        """The model that is validated, shown and kept: the weights' average where there is one."""
        return self.average.module if self.average else self.model

    def autocast(self) -> torch.autocast:
        """Return the block in which a forward pass belongs."""
        return torch.autocast(self.world.device.type, self.dtype, enabled=self.dtype is not torch.float32)

    def run(self) -> list[dict[str, Any]]:
        """Train from the newest checkpoint to the last epoch; return a row of metrics an epoch.

        Raises:
            TrainingError: the loss is no longer a finite number; all ranks stop together.
            StorageError, AccessError, StoreFullError: a checkpoint can't be written.
        """
        run, per_epoch = self.recipe.run, self.data.steps_per_epoch
        self.optimizers = build_optimizers(self.model, self.recipe.optimizer)
        decay = self.recipe.optimizer.average
        self.average = Average(self.model, decay) if decay else None
        sums = self._resume()
        replica = dist.replicate(self.model, self.world)
        self.recorder.start(self.finished, self.history)
        with CheckpointWriter(self.checkpoints, run.keep_checkpoints) as self.writer:
            for epoch in range(self.finished // per_epoch, run.epochs):
                if self._stopped() and self.history and "stopped" in self.history[-1]:
                    break
                clock = Clock()
                for batch in clock.watch(self.data.epoch(epoch, start_step=self.finished % per_epoch)):
                    rate = learning_rate(self.recipe.optimizer, self.finished, run.epochs * per_epoch, self.used)
                    new = self._step(replica, batch, rate)
                    sums += new
                    self.finished += 1
                    self.alive()
                    if self.finished % run.log_steps == 0:
                        speed = {
                            "images_per_second": self.recipe.data.batch_size * clock.rate,
                            "data_wait": clock.waited,
                        }
                        speed |= {"time_used": self.used} if self.max_minutes else {}
                        self.recorder.step(self.finished, {**new.means(), "learning_rate": rate, **speed})
                    if self.used >= 1:
                        break
                    if self.finished % run.checkpoint_steps == 0 and self.finished % per_epoch:
                        self._save(sums)
                self._close_epoch(epoch + 1, sums)
                sums = sums if self.finished % per_epoch else Sums()  # time may be up within an epoch
                self._save(sums)
        return mark_chosen(self.history, self.best.epoch if run.select == "best" else 0)

    def choose(self) -> None:
        """Give the model, after training, the weights that the recipe selects: the best epoch's or the last, averaged or not."""
        self.model.load_state_dict(self.best.weights or self.judged.state_dict())

    def _step(self, replica: nn.Module, batch: Batch, rate: float) -> Sums:
        """Take one optimizer step on this rank's part of a global batch.

        The loss is divided by the count of the *whole* batch, over ranks and accumulated parts (its valid pixels, or
        their weights), so that the gradient does not depend on how the batch is cut up.
        """
        torch.manual_seed((self.recipe.run.seed * 1_000_003 + self.finished) * 4_093 + self.world.rank)
        parts, clip = self.recipe.optimizer.accumulate, self.recipe.optimizer.clip_norm or math.inf
        images, truth = self._inputs(batch)
        mine = self.budget.share(self.budget.seconds) if self.world.rank == 0 else 0.0  # all go by the clock of rank 0
        counts = torch.stack([*self._counts(truth), images.new_tensor(mine, dtype=torch.float64)])
        whole = dist.sum_over_ranks(counts)[0]
        # DDP averages over ranks: times world size makes it the sum that the global count divides.
        scale = self.world.world_size / whole.where(whole > 0, 1)
        found: list[torch.Tensor] = []
        for part, (some, theirs) in enumerate(zip(images.chunk(parts), truth.chunk(parts), strict=True)):
            with dist.gradients_stay_local(replica, part + 1 < parts):
                loss, right = self._loss(replica, some, theirs)
                self.scaler.scale(loss * scale.to(loss.dtype)).backward()
            found.append(torch.stack([loss.detach().double(), right.double()]))
        sums = dist.sum_over_ranks(torch.stack(found).sum(0))
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        size = nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        # The one place where a step waits for the device.
        count, valid, self.used, loss_sum, correct, norm = torch.cat([counts, sums, size.double()[None]]).tolist()
        # Where float16 overflows, the step is left out, and the scaler scales less from then on.
        if not math.isfinite(loss_sum) or not (math.isfinite(norm) or self.scaler.get_scale() > 1):
            raise self._not_finite(loss_sum, norm, rate, batch, [part[0] for part in found])
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            if math.isfinite(norm):
                self.scaler.step(optimizer)
            optimizer.zero_grad(set_to_none=True)
        self.scaler.update()
        if self.average and math.isfinite(norm):
            self.average.follow(self.model, self.finished)
        return Sums(loss_sum, count, correct, valid)

    def _not_finite(
        self, loss: float, norm: float, rate: float, batch: Batch, losses: list[torch.Tensor]
    ) -> TrainingError:
        """Return an error that names the samples, of all ranks, whose part of the batch gave a loss that is no number."""
        self._leave_in_order()  # all others wait for rank 0 below: once they end, it is ended too
        size = len(batch.keys) // len(losses)
        bad = [batch.keys[part * size : (part + 1) * size] for part, value in enumerate(losses) if not value.isfinite()]
        names = [key for rank in dist.gather([key for keys in bad for key in keys]) for key in rank]
        which = (
            f"from samples {', '.join(names[:8])}{' …' if names[8:] else ''}"
            if names
            else "though every loss is finite"
        )
        return TrainingError(
            f"loss {loss} with a gradient of norm {norm} at step {self.finished} (epoch "
            f"{self.finished // self.data.steps_per_epoch + 1}, learning rate {rate:.2g}), {which}: "
            "lower optimizer.learning_rate or look at these samples; checkpoints, if there are any, are from before"
        )

    def _leave_in_order(self) -> None:
        try:
            self.writer.wait()
        except VitsegError as error:
            log.warning("the last checkpoint is not written: %s", error)
        self.recorder.close()

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

    def _loss(self, replica: nn.Module, images: torch.Tensor, truth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the sum of the loss over a part of a batch, and how many pixels are right."""
        # Teacher forcing: the loss and accuracy of such models flatter in training, not in validation.
        targets = []
        if isinstance(self.model, Segmenter) and self.model.teacher_forcing:
            targets = [self.task.teacher_targets(truth, self.model.channels)]
        with self.autocast():
            output = replica(images, *targets)
        loss, _ = self.task.loss(output, truth)
        with torch.no_grad():
            return loss, (self.task.predict(output) == truth).sum() if self.task.classes else torch.zeros_like(loss)

    def _validate(self) -> dict[str, float]:
        """Return the metrics of an epoch's end."""
        found = evaluate_batches(self.judged, self.validation.epoch(0), self.task, progress=lambda images: self.alive())
        return found.flat("val/")

    def _close_epoch(self, epoch: int, sums: Sums) -> None:
        run = self.recipe.run
        last = epoch == run.epochs or self.used >= 1
        row: dict[str, Any] = {"epoch": epoch, "step": self.finished, **sums.means("train/")}
        if last or epoch % run.evaluate_epochs == 0:
            row |= self._validate()
            keeps = run.select == "best" and self.world.rank == 0
            self.best.consider(row, self.judged.state_dict() if keeps else {})
        if self.finished % self.data.steps_per_epoch == 0:
            self.whole = replace(self.best)
        self.history = [*(earlier for earlier in self.history if earlier["epoch"] < epoch), row]
        self.recorder.epoch(row)
        if why := self._stopped():
            row["stopped"] = why
        if last or why or epoch % run.panel_epochs == 0:
            self.recorder.panels(self.judged, epoch)

    def _stopped(self) -> str:
        """Return why training ends before its last epoch: `minutes`, `patience`, or "" where it does not."""
        run = self.recipe.run
        if self.finished == run.epochs * self.data.steps_per_epoch:
            return ""
        patience = run.patience
        return "minutes" if self.used >= 1 else "patience" if patience and self.best.since >= patience else ""

    def _save(self, sums: Sums) -> None:
        if self.world.rank != 0:
            return
        state = {
            "history": self.history, "sums": vars(sums), "best": self.best.state(), "whole": self.whole.state(),
            "scaler": self.scaler.state_dict(), "seconds": self.budget.seconds, "recipe": self.recipe.to_json(),
            "commit": self.commit, "pending": self.recorder.pending(),
        }  # fmt: skip
        more = {"best": self.best.weights} | ({"average": self.judged.state_dict()} if self.average else {})
        if self.whole.epoch != self.best.epoch:
            more["whole"] = self.whole.weights
        self.writer.put(capture(self.model, self.optimizers, self.finished, state, more))

    def _resume(self) -> Sums:
        checkpoint = newest_checkpoint(self.checkpoints)
        dist.barrier()  # nobody writes a new one before everybody has read the same
        dist.check_equal(checkpoint.step if checkpoint else 0, "the newest checkpoint")
        if checkpoint is None:
            return Sums()
        restore(checkpoint, self.model, self.optimizers)
        if self.average:
            self.average.module.load_state_dict(checkpoint.part("average"))
        state = checkpoint.state
        self.finished, self.history = checkpoint.step, state["history"]
        part = checkpoint.part if self.world.rank == 0 else lambda name: {}
        self.best = Best(**state["best"], weights=part("best"))
        whole = state.get("whole", state["best"])  # checkpoints of before did not know the difference
        self.whole = Best(**whole, weights=part("best" if whole["epoch"] == self.best.epoch else "whole"))
        if state["scaler"] and self.scaler.is_enabled():  # the machine before may have computed in bfloat16
            self.scaler.load_state_dict(state["scaler"])
        self.recorder.take_up(state["pending"])
        self.budget.seconds = state["seconds"]
        self.used = self.budget.share(state["seconds"])
        if self.finished % self.data.steps_per_epoch and self.used < 1:
            self.best = replace(self.whole)
        return Sums(**state["sums"])
