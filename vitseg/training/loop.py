"""The training loop.

Every random choice of a step is a function of (seed, step): which samples, how they are changed, what dropout drops.
So a job that was killed and started again takes the same steps as one that was not.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vitseg import dist
from vitseg.checkpoint import CheckpointWriter
from vitseg.data.loader import Batch, Batches
from vitseg.errors import TrainingError, VitsegError
from vitseg.storage import Store
from vitseg.training.logger import TrainingLogger
from vitseg.training.objectives.base import Objective
from vitseg.training.optimizer import learning_rate
from vitseg.training.progress import BatchClock, Progress, TimeBudget, mark_chosen
from vitseg.training.resume import resume, snapshot
from vitseg.training.step import Learner, StepResult, bad_samples

log = logging.getLogger(__name__)


@dataclass
class Trainer:
    """One rank's view of a training job; start reading at `run`.

    Batches are this rank's. `alive` is called after each step and each validated batch, so that a rank that hangs is
    noticed. When `max_minutes` are up, training ends; the learning rate has fallen by then as at the last epoch.
    `commit` is that of the code, for the checkpoints.
    """

    objective: Objective
    world: dist.World
    data: Batches
    validation: Batches
    checkpoints: Store
    logger: TrainingLogger
    alive: Callable[[], None] = lambda: None
    max_minutes: float | None = None
    commit: str = ""

    def __post_init__(self) -> None:
        self.recipe, self.model = self.objective.recipe, self.objective.model
        self.learner = Learner(self.objective, self.world)
        self.budget = TimeBudget(self.max_minutes)
        self.progress = Progress()

    def run(self) -> list[dict[str, Any]]:
        """Train from the newest checkpoint to the last epoch; return a row of metrics an epoch.

        Raises:
            TrainingError: the loss is no longer a finite number; all ranks stop together.
            StorageError, AccessError, StoreFullError: a checkpoint can't be written.
        """
        run, per_epoch = self.recipe.run, self.data.steps_per_epoch
        self.progress = resume(self.checkpoints, self.learner, self.budget, self.logger, per_epoch)
        self.learner.connect()
        self.logger.log_start(self.progress.step, self.progress.history)
        with CheckpointWriter(self.checkpoints, run.keep_checkpoints) as self.writer:
            for epoch in range(self.progress.step // per_epoch, run.epochs):
                if self._stop_reason() and self.progress.history and "stopped" in self.progress.history[-1]:
                    break
                self._train_epoch(epoch)
                self._end_epoch(epoch + 1)
                self._save()
        return mark_chosen(self.progress.history, self.progress.best.epoch if run.select == "best" else 0)

    def select_weights(self) -> None:
        """Give the model the weights that the recipe selects: the best epoch's or the last, averaged or not."""
        self.model.load_state_dict(self.progress.best.weights or self.learner.eval_model.state_dict())

    def _train_epoch(self, epoch: int) -> None:
        """Take the steps of an epoch that are left, or those for which there is time."""
        run, progress, per_epoch = self.recipe.run, self.progress, self.data.steps_per_epoch
        clock = BatchClock()
        for batch in clock.watch(self.data.epoch(epoch, start_step=progress.step % per_epoch)):
            rate = learning_rate(self.recipe.optimizer, progress.step, run.epochs * per_epoch, progress.time_used)
            time_used = self.budget.share(self.budget.seconds)
            result = self.learner.take_step(batch, step=progress.step, learning_rate=rate, time_used=time_used)
            if result.diverged:
                raise self._divergence(result, batch, rate)
            progress.totals += result.totals
            progress.time_used = result.time_used
            progress.step += 1
            self.alive()
            if progress.step % run.log_steps == 0:
                self._log_step(result, rate, clock)
            if progress.time_used >= 1:
                return
            if progress.step % run.checkpoint_steps == 0 and progress.step % per_epoch:
                self._save()

    def _end_epoch(self, epoch: int) -> None:
        """Validate where it is time to, and report the epoch."""
        run, progress = self.recipe.run, self.progress
        last = epoch == run.epochs or progress.time_used >= 1
        row: dict[str, Any] = {"epoch": epoch, "step": progress.step, **progress.totals.means("train/")}
        if last or epoch % run.evaluate_epochs == 0:
            row |= self.objective.validate(self.learner.eval_model, self.validation, self.alive)
            keeps = run.select == "best" and self.world.rank == 0
            weights = self.learner.eval_model.state_dict() if keeps else {}
            progress.best.update(epoch, self.objective.score(row), weights)
        progress.finish_epoch(row, self.data.steps_per_epoch)
        self.logger.log_epoch(row)
        if reason := self._stop_reason():
            row["stopped"] = reason
        if last or reason or epoch % run.panel_epochs == 0:
            self.logger.log_panels(self.learner.eval_model, epoch)

    def _stop_reason(self) -> str:
        """Return why training ends before its last epoch: `minutes`, `patience`, or "" where it does not."""
        run, progress = self.recipe.run, self.progress
        if progress.step == run.epochs * self.data.steps_per_epoch:
            return ""
        if progress.time_used >= 1:
            return "minutes"
        return "patience" if run.patience and progress.best.since >= run.patience else ""

    def _save(self) -> None:
        if self.world.rank == 0:
            self.writer.put(snapshot(self.learner, self.progress, self.budget, self.logger, self.commit))

    def _log_step(self, result: StepResult, rate: float, clock: BatchClock) -> None:
        values = {**result.totals.means(), "learning_rate": rate}
        values |= {"images_per_second": self.recipe.data.batch_size * clock.rate, "data_wait": clock.data_wait}
        values |= {"time_used": self.progress.time_used} if self.max_minutes else {}
        self.logger.log_step(self.progress.step, values)

    def _divergence(self, result: StepResult, batch: Batch, rate: float) -> TrainingError:
        """Return an error that names the samples, of all ranks, whose part of the batch gave a loss that is not finite."""
        try:  # first: all others wait for rank 0 below, and once they end, it is ended too
            self.writer.wait()
        except VitsegError as error:
            log.warning("the last checkpoint is not written: %s", error)
        self.logger.close()
        names = [key for rank in dist.gather(bad_samples(batch, result.part_losses)) for key in rank]
        listed = f"from samples {', '.join(names[:8])}{' …' if names[8:] else ''}"
        step, epoch = self.progress.step, self.progress.step // self.data.steps_per_epoch + 1
        return TrainingError(
            f"loss {result.totals.loss} with a gradient of norm {result.gradient_norm} at step {step} (epoch {epoch}, "
            f"learning rate {rate:.2g}), {listed if names else 'though every loss is finite'}: lower "
            "optimizer.learning_rate or look at these samples; checkpoints, if there are any, are from before"
        )
