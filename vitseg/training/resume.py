"""An interrupted training goes on from its newest checkpoint, as if it had not been interrupted.

`snapshot` is what a checkpoint holds, `resume` puts it back. `vitseg.checkpoint` reads and writes the files.
"""

from dataclasses import replace

from vitseg import dist
from vitseg.checkpoint import Checkpoint, capture, newest_checkpoint, restore
from vitseg.storage import Store
from vitseg.training.logger import TrainingLogger
from vitseg.training.progress import BestEpoch, Progress, TimeBudget, Totals
from vitseg.training.step import Learner


def snapshot(
    learner: Learner, progress: Progress, budget: TimeBudget, logger: TrainingLogger, commit: str
) -> Checkpoint:
    """Return all that resuming needs, on the CPU, and for people who read it recipe and commit; only rank 0 has it all."""
    state = {
        "history": progress.history, "sums": vars(progress.totals), "best": progress.best.state(),
        "whole": progress.best_complete.state(), "scaler": learner.scaler.state_dict(), "seconds": budget.seconds,
        "recipe": learner.recipe.to_json(), "commit": commit, "pending": logger.state(),
    }  # fmt: skip
    weights = {"best": progress.best.weights}
    if learner.average:
        state["averaged"] = int(learner.average.n_averaged)
        weights["average"] = learner.average.module.state_dict()
    if progress.best_complete.epoch != progress.best.epoch:
        weights["whole"] = progress.best_complete.weights
    return capture(learner.model, learner.optimizers, progress.step, state, weights)


def resume(
    checkpoints: Store, learner: Learner, budget: TimeBudget, logger: TrainingLogger, steps_per_epoch: int
) -> Progress:
    """Put the newest checkpoint back, and return how far the training is: at its start where there is none."""
    checkpoint = newest_checkpoint(checkpoints)
    dist.barrier()  # nobody writes a new one before everybody has read the same
    dist.check_equal(checkpoint.step if checkpoint else 0, "the newest checkpoint")
    if checkpoint is None:
        return Progress()
    restore(checkpoint, learner.model, learner.optimizers)
    state = checkpoint.state
    if learner.average:
        learner.average.module.load_state_dict(checkpoint.part("average"))
        learner.average.n_averaged.fill_(state.get("averaged", checkpoint.step))  # older checkpoints don't count it
    if state["scaler"] and learner.scaler.is_enabled():  # the machine before may have computed in bfloat16
        learner.scaler.load_state_dict(state["scaler"])
    logger.load_state(state["pending"])
    budget.seconds = state["seconds"]
    part = checkpoint.part if learner.world.rank == 0 else lambda name: {}
    best = BestEpoch(**state["best"], weights=part("best"))
    whole = state.get("whole", state["best"])  # older checkpoints don't tell them apart
    complete = BestEpoch(**whole, weights=part("best" if whole["epoch"] == best.epoch else "whole"))
    time_used = budget.share(state["seconds"])
    if checkpoint.step % steps_per_epoch and time_used < 1:  # the epoch that was cut short goes on
        best = replace(complete)
    return Progress(checkpoint.step, Totals(**state["sums"]), state["history"], time_used, best, complete)
