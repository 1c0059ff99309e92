"""Which objects of a listing belong together, in a temporary database: a source may list millions.

Objects with equal stems belong together. What is left alone belongs together if its names are alike (`plain_name`) and no
other name in the split is.
"""

import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator

from vitseg.data.temporary_database import TemporaryDatabase, packed, unpacked
from vitseg.storage import ObjectInfo

PHOTO, LABEL, SECOND_LABEL, COARSE_LABEL = range(4)
"""What an object is to its stem; a second label counts where there is no first, a coarse one nowhere."""

Listed = tuple[str, str, int, ObjectInfo]
"""Split, stem, part (what it is to the stem), and the object."""

SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation")}
"""The splits that training needs, and the names of folders, in lower case, that can only mean them."""

_WORDS = "image|img|photo|rgb|leftimg8bit|mask|label|labelid|seg|segmentation|annotation|gt|gtfine"
_SAYS_WHAT = re.compile(rf"(?:^|(?<=/))(?:(?:{_WORDS})s?[ _.-]+)+|(?:[ _.-]+(?:{_WORDS})s?)+$")


def plain_name(stem: str) -> str:
    """Return a stem without what people change from a photograph to its mask: Unicode form, case, words such as `_mask`.

    >>> plain_name("camera/IMG_1"), plain_name("camera/img_1_gtFine_labelIds"), plain_name("camera/mask-1")
    ('camera/1', 'camera/1', 'camera/1')
    """
    name = unicodedata.normalize("NFC", stem).casefold()
    return _SAYS_WHAT.sub("", name) or name


class Pairing(TemporaryDatabase):
    """All objects that a source lists, in the order of split, stem, part and key."""

    def __init__(self) -> None:
        super().__init__()
        columns = "part INTEGER, key BLOB, size INTEGER, etag TEXT"
        self.execute(
            f"CREATE TABLE object (split BLOB, stem BLOB, {columns}, PRIMARY KEY (split, stem, part, key)) WITHOUT ROWID"
        )
        self.execute(f"CREATE TABLE alone (split BLOB, name BLOB, stem BLOB, {columns})")

    def add(self, rows: Iterable[Listed]) -> None:
        """Insert objects as they are listed."""
        self.executemany(
            "INSERT OR IGNORE INTO object VALUES (?, ?, ?, ?, ?, ?)",
            (
                (packed(split), packed(stem), part, packed(info.key), info.size, info.etag)
                for split, stem, part, info in rows
            ),
        )

    def rename_splits(self) -> dict[str, str]:
        """Give the splits that training needs their names, where one folder alone can be meant; return old and new ones."""
        found = [unpacked(split) for (split,) in self.execute("SELECT DISTINCT split FROM object")]
        meant = {name: [split for split in found if split.casefold() in names] for name, names in SPLITS.items()}
        renamed = {splits[0]: name for name, splits in meant.items() if len(splits) == 1 and splits != [name]}
        for old, new in renamed.items():
            self.execute("UPDATE object SET split = ? WHERE split = ?", (packed(new), packed(old)))
        return renamed

    def stems(self) -> Iterator[tuple[str, str, dict[int, list[ObjectInfo]]]]:
        """Yield (split, stem, {part: objects by name}), by split and stem."""
        rows = self.execute("SELECT * FROM object ORDER BY split, stem, part, key")
        for (split, stem), group in itertools.groupby(rows, key=lambda row: row[:2]):
            found: dict[int, list[ObjectInfo]] = {}
            for _, _, part, key, size, etag in group:
                found.setdefault(part, []).append(ObjectInfo(unpacked(key), size, etag))
            yield unpacked(split), unpacked(stem), found

    def leave(self, split: str, stem: str, found: dict[int, ObjectInfo]) -> None:
        """Keep the objects of a stem that has no photograph, or no label, for `alike`."""
        self.executemany(
            "INSERT INTO alone VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                (packed(split), packed(plain_name(stem)), packed(stem), part, packed(info.key), info.size, info.etag)
                for part, info in found.items()
            ),
        )

    def alike(self) -> Iterator[tuple[str, dict[int, list[tuple[str, ObjectInfo]]]]]:
        """Yield (split, {part: (stem, object) by key}) of what was left and has one plain name, by split and that name."""
        rows = self.execute("SELECT * FROM alone ORDER BY split, name, part, key")
        for (split, _), group in itertools.groupby(rows, key=lambda row: row[:2]):
            found: dict[int, list[tuple[str, ObjectInfo]]] = {}
            for _, _, stem, part, key, size, etag in group:
                found.setdefault(part, []).append((unpacked(stem), ObjectInfo(unpacked(key), size, etag)))
            yield unpacked(split), found
