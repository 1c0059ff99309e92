"""What ranks report to their launcher, a JSON object a line, and whose failure ended a job: others only lost a peer by it."""

import json
import signal
import sys
import traceback
from typing import Any

import torch

import vitseg.errors
from vitseg import dist
from vitseg.errors import RankLostError, TrainingError, VitsegError
from vitseg.recipe import Recipe
from vitseg.training.watchdog import RankNote, what_hung

_START = '{"event": '
_LONGEST = 20_000  # characters of a traceback: a line that long still goes through the pipe in one piece


def emit(event: str, **values: Any) -> None:
    """Write one event to standard output, in one piece: all ranks share the pipe."""
    sys.stdout.write(json.dumps({"event": event, **values}) + "\n")
    sys.stdout.flush()


def parse_event(line: str) -> dict[str, Any] | None:
    """Return the event in a line, or None where the line is only text."""
    if not line.startswith(_START):
        return None
    try:
        return json.loads(line)
    except ValueError:
        return None  # two ranks wrote into one line: shown as the text it is


def describe_error(error: Exception, rank: int, recipe: Recipe | None) -> dict[str, Any]:
    """Return the values of the event by which a rank reports the error that ends it."""
    kind, message = type(error), str(error)
    if not isinstance(error, VitsegError):
        short = f"{type(error).__name__}: {(message.strip().splitlines() or ['no message'])[0]}"
        kind, message = RankLostError, f"rank {rank} failed: {short}"
        if is_memory(error):
            now = f" (now {recipe.optimizer.accumulate} and {recipe.data.batch_size})" if recipe else ""
            kind = TrainingError
            message = (
                f"rank {rank} ran out of memory: raise optimizer.accumulate, the parts in which a batch is computed, or "
                f"lower data.batch_size{now}; {short}"
            )
    text = "".join(traceback.format_exception(error))
    return {
        "kind": kind.__name__,
        "message": message,
        "rank": rank,
        "traceback": text[-_LONGEST:],
        "echo": dist.lost_a_peer(error) and not is_memory(error),
    }


def cause(errors: list[dict[str, Any]], ended: list[tuple[int, int]], notes: dict[int, RankNote]) -> VitsegError | None:
    """Return the error that ended a job, or None where no rank and no agent reports one.

    `errors` are what ranks reported by `describe_error`, `ended` ranks and their exit codes, both the first one first.
    """
    own = [event for event in errors if not event["echo"]]
    if own:
        return _rebuild(own[0])
    if notes:
        return RankLostError(what_hung(notes))
    killed = [(rank, -code) for rank, code in ended if code < 0 and -code != signal.SIGTERM]
    if killed:
        return RankLostError(f"rank {killed[0][0]} was {ended_by(killed[0][1])}")
    if errors:
        return _rebuild(errors[0])
    for rank, code in ended:
        how = f"was {ended_by(-code)}" if code < 0 else f"ended without a message (exit code {code})"
        return RankLostError(f"rank {rank} {how}")
    return None


def ended_by(number: int) -> str:
    """Return a signal in words."""
    hint = ", for example because memory ran out" if number == signal.SIGKILL else ""
    return f"killed by {signal.Signals(number).name}{hint}"


def _rebuild(event: dict[str, Any]) -> VitsegError:
    """Return a rank's error as the exception that it was there."""
    return getattr(vitseg.errors, str(event["kind"]), TrainingError)(str(event["message"]))


def is_memory(error: Exception) -> bool:
    """Return whether an error says that memory ran out."""
    cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # torch has no type for this one
    return cpu or isinstance(error, MemoryError | torch.OutOfMemoryError)
