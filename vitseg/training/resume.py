"""An interrupted training goes on from its newest checkpoint, as if it had not been interrupted.

`snapshot` is what a checkpoint holds, `resume` puts it back. `vitseg.checkpoint` reads and writes the files.
"""

from dataclasses import replace

from vitseg import dist
from vitseg.checkpoint import Checkpoint, capture, newest_checkpoint, restore
from vitseg.storage import Store
from vitseg.training.logger import TrainingLogger
from vitseg.training.progress import BestEpoch, Progress, Totals
from vitseg.training.step import Learner
from vitseg.training.timing import TimeBudget


def snapshot(
    learner: Learner, progress: Progress, budget: TimeBudget, logger: TrainingLogger, commit: str
) -> Checkpoint:
    """Return all that resuming needs, on the CPU; rank 0 has it all.

    Args:
        learner: weights and moments.
        progress: of the training.
        budget: the time that was used.
        logger: whose metrics may not be delivered yet.
        commit: of the code, for people who read the checkpoint.
    """
    state = {
        "history": progress.history,
        "sums": vars(progress.totals),
        "best": progress.best.state(),
        "whole": progress.best_complete.state(),
        "scaler": learner.scaler.state_dict(),
        "seconds": budget.seconds,
        "recipe": learner.recipe.to_json(),
        "commit": commit,
        "pending": logger.state(),
    }
    weights = {"best": progress.best.weights}
    if learner.average:
        state["averaged"] = learner.average.updates
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
        learner.average.updates = state.get("averaged", checkpoint.step)  # older checkpoints don't count it
    if state["scaler"] and learner.scaler.is_enabled():  # the machine before may have computed in bfloat16
        learner.scaler.load_state_dict(state["scaler"])
    logger.load_state(state["pending"])
    budget.seconds = state["seconds"]
    whole = state.get("whole", state["best"])  # older checkpoints don't tell them apart
    progress = Progress(
        step=checkpoint.step,
        totals=Totals(**state["sums"]),
        history=state["history"],
        time_used=budget.share(state["seconds"]),
        best=_best_epoch(checkpoint, state["best"], "best", learner.world),
        best_complete=_best_epoch(
            checkpoint, whole, "best" if whole["epoch"] == state["best"]["epoch"] else "whole", learner.world
        ),
    )
    if progress.step % steps_per_epoch and progress.time_used < 1:  # the epoch that was cut short goes on
        progress.best = replace(progress.best_complete)
    return progress


def _best_epoch(checkpoint: Checkpoint, state: dict[str, float], part: str, world: dist.World) -> BestEpoch:
    return BestEpoch(**state, weights=checkpoint.part(part) if world.rank == 0 else {})  # type: ignore[arg-type]
