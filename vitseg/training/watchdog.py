"""Ends a rank that makes no progress, and leaves a note of where it was for the launcher.

The timer is a thread of C that needs nothing of Python: it works also where a call never gives the interpreter back. A
rank that hangs keeps all others waiting, so that all timers run out together; the first one that does ends its process,
the agent then ends the others by SIGTERM, and each of them leaves its note too.
"""

import contextlib
import faulthandler
import os
import re
import signal
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

NOTES = "VITSEG_NOTES"
"""Environment variable: the folder in which ranks leave their notes; without it nobody is watched."""
FIRST_MINUTES = 5.0
"""So much longer may the first step take: it reads the checkpoint, fills caches, meets cold disks and GPUs."""

_NOTE = "stacks-of-rank-{}"
_FIRED = re.compile(r"Timeout \((\d+):(\d+):([\d.]+)\)!")
_LOST_SIGHT = "it lost sight of another rank: its own traceback is above"
_WAITING = (
    _LOST_SIGHT,
    "distributed_c10d.py",
    "in sum_over_ranks",
    "in barrier",
    "in _engine_run_backward",
    "in destroy_process_group",
)

_ON_GPU = re.compile(r'.*\n  File "[^"]*step\.py", line \d+ in take_step\n')  # right there it asks for what a GPU found


@contextlib.contextmanager
def watched(minutes: float) -> Iterator[Callable[[], None]]:
    """Watch this process within the block; yields what is to be called whenever there is progress.

    Where that is not called for so many minutes, all stacks are written down and the process ends.
    """
    folder = os.environ.get(NOTES)
    if not folder:
        yield lambda: None
        return
    with Path(folder, _NOTE.format(os.environ.get("RANK", "0"))).open("w") as note:

        def expect(within: float) -> None:
            faulthandler.dump_traceback_later(60 * within, exit=True, file=note)

        faulthandler.register(signal.SIGTERM, file=note, chain=True)
        expect(minutes + FIRST_MINUTES)
        try:
            yield lambda: expect(minutes)
        finally:
            faulthandler.cancel_dump_traceback_later()
            faulthandler.unregister(signal.SIGTERM)


def read_notes(folder: Path, lost_sight: Collection[int] = ()) -> dict[int, str]:
    """Return the stacks of all ranks that left them, if a timer ran out; else nothing. "": a rank could not write any.

    A rank that lost sight of another, whose timer was quicker, had no reason to write any: `lost_sight` are those.
    """
    notes = {int(path.name.rpartition("-")[2]): path.read_text() for path in folder.glob(_NOTE.format("*"))}
    notes |= {rank: _LOST_SIGHT for rank in lost_sight if notes.get(rank) == ""}
    return dict(sorted(notes.items())) if any(map(_FIRED.match, notes.values())) else {}


def what_hung(notes: dict[int, str]) -> str:
    """Return in a sentence which ranks hung, and for how long."""
    hung = _hung(notes)
    ranks = f"rank {hung[0]}" if len(hung) == 1 else f"ranks {', '.join(map(str, hung))}"
    hours, minutes, seconds = next(match.groups() for text in notes.values() if (match := _FIRED.match(text)))
    mute = ": stopped from outside, or stuck in the system" if not all(notes[rank] for rank in hung) else ""
    return f"{ranks} made no progress for {60 * int(hours) + int(minutes) + float(seconds) / 60:.3g} minutes{mute}"


def in_words(notes: dict[int, str]) -> list[str]:
    """Return where each rank was, those that the others waited for first."""
    hung = _hung(notes)
    words = []
    for rank in sorted(notes, key=lambda rank: rank not in hung):
        title = f"rank {rank}, where it {'hung' if rank in hung else 'waited'}"
        words.append(f"{title}:\n{notes[rank].strip() or 'it left no stacks'}")
    return words


def _hung(notes: dict[int, str]) -> list[int]:
    """Return the ranks whose main thread waits for nobody; all, where that can't be told.

    Of those, the ones whose timer ran out: others may have lost sight of them before, and were on their way out.
    """
    busy = [rank for rank, text in notes.items() if not _waits(text)]
    return [rank for rank in busy if _FIRED.match(notes[rank])] or busy or list(notes)


def _waits(text: str) -> bool:
    """Say whether stacks show that a rank's main thread waits for others: in a collective, or on a GPU that is in one."""
    main = _main_thread(text)
    return any(word in main for word in _WAITING) or bool(_ON_GPU.match(main))


def _main_thread(text: str) -> str:
    return re.split(r"^(?:Current thread|Thread) ", text, flags=re.MULTILINE)[-1]  # the oldest thread comes last
