"""Two lists of classes, matched by name: ids, train ids and colors are how a class is written, not what it is."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ClassChange:
    """What became of the classes of a list, by name; a class with a new name is one removed and one added."""

    shared: tuple[str, ...]
    """Names that both have, in the order and spelling of the later list."""
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    @property
    def is_none(self) -> bool:
        """Whether both lists name the same classes, in whatever order."""
        return not self.added and not self.removed


def class_key(name: str) -> str:
    """Return what classes are matched by: Unicode forms and outer blanks don't matter."""
    return unicodedata.normalize("NFC", name).strip()


def match_names(ours: Sequence[str], theirs: Sequence[str]) -> list[int | None]:
    """Return for each of our names its place in theirs, or None where they lack it."""
    places = {class_key(name): place for place, name in enumerate(theirs)}
    return [places.get(class_key(name)) for name in ours]


def class_change(before: Sequence[str], after: Sequence[str]) -> ClassChange:
    """Return what became of one list of class names in another."""
    kept, known = match_names(before, after), match_names(after, before)
    return ClassChange(
        shared=tuple(name for name, place in zip(after, known, strict=True) if place is not None),
        added=tuple(name for name, place in zip(after, known, strict=True) if place is None),
        removed=tuple(name for name, place in zip(before, kept, strict=True) if place is None),
    )
