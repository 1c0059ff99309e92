"""Ends a rank that makes no progress; its stacks, and what it waited for, are left for the launcher.

The timer is a thread of C that needs nothing of Python: it works also where a call never gives the interpreter back. A
rank that hangs keeps all others waiting, so that all timers run out together; the first one that does ends its process,
the agent then ends the others by SIGTERM, and each of them leaves its stacks too.
"""

import contextlib
import faulthandler
import os
import re
import signal
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from vitseg import dist

FIRST_MINUTES = 5.0
"""So much longer may the first step take: it reads the checkpoint, fills caches, meets cold disks and GPUs."""

_STACKS = "stacks-of-rank-{}"
_FIRED = re.compile(r"Timeout \((\d+):(\d+):([\d.]+)\)!")


@dataclass(frozen=True)
class RankNote:
    """What a rank left behind."""

    stacks: str
    """Of all its threads; "" where it could not write any."""
    waits_for: str = ""
    """What it waited for, of the other ranks; "" where it hung by itself."""


@contextlib.contextmanager
def watched(minutes: float) -> Iterator[Callable[[], None]]:
    """Watch this process within the block; yields a function to call whenever there is progress.

    Where it is not called for so many minutes, all stacks are written down and the process ends.
    """
    folder = os.environ.get(dist.NOTES)
    if not folder:
        yield lambda: None
        return
    with Path(folder, _STACKS.format(os.environ.get("RANK", "0"))).open("w") as file:

        def expect(within: float) -> None:
            faulthandler.dump_traceback_later(60 * within, exit=True, file=file)

        faulthandler.register(signal.SIGTERM, file=file, chain=True)
        expect(minutes + FIRST_MINUTES)
        try:
            yield lambda: expect(minutes)
        finally:
            faulthandler.cancel_dump_traceback_later()
            faulthandler.unregister(signal.SIGTERM)


def read_notes(folder: Path, lost_a_peer: Collection[int] = ()) -> dict[int, RankNote]:
    """Return the notes of all ranks if a timer ran out, else none.

    Ranks of `lost_a_peer` reported that another one is gone, which ended them before they wrote stacks. Of any other rank
    without stacks the note of what it waits for counts for nothing: it was stopped from outside, wherever it stood.
    """
    notes = {}
    for path in folder.glob(_STACKS.format("*")):
        rank, stacks = int(path.name.rpartition("-")[2]), path.read_text()
        lost = not stacks and rank in lost_a_peer
        waits = dist.read_wait(folder, rank) if stacks or lost else ""
        notes[rank] = RankNote(stacks, waits or ("another rank, which was lost" if lost else ""))
    return dict(sorted(notes.items())) if any(_FIRED.match(note.stacks) for note in notes.values()) else {}


def what_hung(notes: dict[int, RankNote]) -> str:
    """Return in a sentence which ranks hung, and for how long."""
    hung = _hung(notes)
    ranks = f"rank {hung[0]}" if len(hung) == 1 else f"ranks {', '.join(map(str, hung))}"
    hours, minutes, seconds = next(match.groups() for note in notes.values() if (match := _FIRED.match(note.stacks)))
    mute = ": stopped from outside, or stuck in the system" if not all(notes[rank].stacks for rank in hung) else ""
    return f"{ranks} made no progress for {60 * int(hours) + int(minutes) + float(seconds) / 60:.3g} minutes{mute}"


def describe(notes: dict[int, RankNote]) -> list[str]:
    """Return where each rank was, those that the others waited for first."""
    hung = _hung(notes)
    texts = []
    for rank in sorted(notes, key=lambda rank: rank not in hung):
        did = "hung" if rank in hung else f"waited for {notes[rank].waits_for}" if notes[rank].waits_for else "waited"
        texts.append(f"rank {rank}, where it {did}:\n{notes[rank].stacks.strip() or 'it left no stacks'}")
    return texts


def _hung(notes: dict[int, RankNote]) -> list[int]:
    """Return the ranks that wait for none of the others; all, if each waits for another.

    Of those, the ones whose timer ran out: others may have lost a peer before, and were on their way out.
    """
    busy = [rank for rank, note in notes.items() if not note.waits_for]
    return [rank for rank in busy if _FIRED.match(notes[rank].stacks)] or busy or list(notes)
