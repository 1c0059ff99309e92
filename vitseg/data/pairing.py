"""Pairs photos and labels by split and stem, on disk: memory does not grow with the source."""

import itertools
from collections.abc import Iterable, Iterator

from vitseg.data.temporary_database import TemporaryDatabase, packed, unpacked
from vitseg.storage import ObjectInfo

PHOTO, LABEL, SECOND_LABEL = range(3)
"""What an object is to its stem; a second label counts where there is no first."""

Listed = tuple[str, str, int, ObjectInfo]
"""Split, stem, part (what it is to the stem), and the object."""


class Pairing(TemporaryDatabase):
    """All objects that a source lists, in the order of split, stem, part and key."""

    def __init__(self) -> None:
        super().__init__()
        self.execute(
            "CREATE TABLE object (split BLOB, stem BLOB, part INTEGER, key BLOB, size INTEGER, etag TEXT, "
            "PRIMARY KEY (split, stem, part, key)) WITHOUT ROWID"
        )

    def add(self, rows: Iterable[Listed]) -> None:
        """Insert objects as they are listed."""
        self.executemany(
            "INSERT OR IGNORE INTO object VALUES (?, ?, ?, ?, ?, ?)",
            (
                (packed(split), packed(stem), part, packed(info.key), info.size, info.etag)
                for split, stem, part, info in rows
            ),
        )

    def stems(self) -> Iterator[tuple[str, str, dict[int, list[ObjectInfo]]]]:
        """Yield (split, stem, {part: objects by name}), by split and stem."""
        rows = self.execute("SELECT * FROM object ORDER BY split, stem, part, key")
        for (split, stem), group in itertools.groupby(rows, key=lambda row: row[:2]):
            found: dict[int, list[ObjectInfo]] = {}
            for _, _, part, key, size, etag in group:
                found.setdefault(part, []).append(ObjectInfo(unpacked(key), size, etag))
            yield unpacked(split), unpacked(stem), found
