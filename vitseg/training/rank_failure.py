"""Which rank's failure ended a job: the others only lost sight of it, or were told to leave."""

import signal
import traceback
from typing import Any

import torch

from vitseg import dist, errors
from vitseg.errors import RankLostError, TrainingError, VitsegError
from vitseg.recipe import Recipe
from vitseg.training.watchdog import what_hung

_MOST = 20_000  # characters of a traceback: a line that long still goes through the pipe in one piece


def described(error: Exception, rank: int, recipe: Recipe | None) -> dict[str, Any]:
    """Return what a rank says of the error that ends it, as values of an event."""
    kind, message = type(error), str(error)
    if not isinstance(error, VitsegError):
        kind, message = RankLostError, f"rank {rank} failed: {type(error).__name__}: {_first_line(error)}"
        if _is_memory(error):
            now = f" (now {recipe.optimizer.accumulate} and {recipe.data.batch_size})" if recipe else ""
            kind, message = (
                TrainingError,
                (
                    f"rank {rank} ran out of memory: raise optimizer.accumulate, the parts in which a batch is computed, or "
                    f"lower data.batch_size{now}; {type(error).__name__}: {_first_line(error)}"
                ),
            )
    text = "".join(traceback.format_exception(error))
    return {
        "kind": kind.__name__,
        "message": message,
        "rank": rank,
        "traceback": text[-_MOST:],
        "echo": dist.lost_a_peer(error),
    }


def cause(told: list[dict[str, Any]], ended: list[tuple[int, int]], notes: dict[int, str]) -> VitsegError | None:
    """Return the error that a job ended by, or None where no rank and no agent knows of one.

    Args:
        told: what ranks said, by `described`, the first one first.
        ended: ranks and their exit codes, the first one first.
        notes: what `watchdog.read_notes` found.
    """
    own = [event for event in told if not event["echo"]]
    if own:
        return _told(own[0])
    if notes:
        return RankLostError(what_hung(notes))
    killed = [(rank, -code) for rank, code in ended if code < 0 and -code != signal.SIGTERM]
    if killed:
        return RankLostError(f"rank {killed[0][0]} was {ended_by(killed[0][1])}")
    if told:
        return _told(told[0])
    for rank, code in ended:
        how = f"was {ended_by(-code)}" if code < 0 else f"ended without a word (exit code {code})"
        return RankLostError(f"rank {rank} {how}")
    return None


def ended_by(number: int) -> str:
    """Return a signal in words."""
    hint = ", for example because memory ran out" if number == signal.SIGKILL else ""
    return f"killed by {signal.Signals(number).name}{hint}"


def _told(event: dict[str, Any]) -> VitsegError:
    """Return a rank's error as what it was there."""
    return getattr(errors, str(event["kind"]), TrainingError)(str(event["message"]))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["without a word"])[0]


def _is_memory(error: Exception) -> bool:
    cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # torch has no type for this one
    return cpu or isinstance(error, MemoryError | torch.OutOfMemoryError)
