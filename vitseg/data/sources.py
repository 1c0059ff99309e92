"""What a source holds: photos and their labels, paired, in one of four layouts; or, in the fifth, photos alone.

    cityscapes   leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png
                 gtFine/{split}/{city}/{stem}_gtFine_labelIds.png, or _color.png where ids are missing
    pairs        {split}/{n}.jpg: photo left, color label right, one image twice as wide as high
    folders      {split}/images/*, {split}/masks/* with equal stems, and a classes.json
    images       {split}/images/*, {split}/targets/* with equal stems: pairs of images, without classes
    photos       any images, wherever they lie, without labels: for pretraining; labels of the other layouts are left out

Only listings are read here; nothing is opened but `classes.json`.
"""

import contextlib
import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from vitseg.data import LAYOUTS
from vitseg.data.manifest import SkippedSource
from vitseg.data.temporary_database import TemporaryDatabase, packed, unpacked
from vitseg.errors import DataError, NotFoundError, UsageError
from vitseg.images.formats import EXTENSIONS
from vitseg.json_input import parse_json
from vitseg.labels import CITYSCAPES, Label, train_classes
from vitseg.storage import ObjectInfo, Store

PHOTO, LABEL, SECOND_LABEL = range(3)
"""What an object is to its stem; a second label counts where there is no first."""

Listed = tuple[str, str, int, ObjectInfo]
"""Split, stem, part (what it is to the stem), and the object."""

PHOTOS = "photos"
CLASSES = "classes.json"

_CITYSCAPES_PHOTO = re.compile(r"leftImg8bit/(?P<split>[^/]+)/[^/]+/(?P<stem>[^/]+)_leftImg8bit\.png")
_CITYSCAPES_LABEL = re.compile(r"gtFine/(?P<split>[^/]+)/[^/]+/(?P<stem>[^/]+)_gtFine_(?P<part>labelIds|color)\.png")
_BESIDE_PHOTOS = re.compile(  # labels: what they belong to, in lower case, is there too
    r"(?P<root>(?:.*/)?)(?:(?P<official>gtfine|gtcoarse)/.+|(?P<split>[^/]+)/(?:masks|targets)/.+)"
)
_PHOTO_FOLDERS = ("leftimg8bit", "images")  # where those photographs lie
_PAIR = re.compile(r"(?P<split>[^/]+)/(?P<stem>[^/]+)\.(jpe?g|png)", re.IGNORECASE)
_IMAGE = rf"(?P<stem>.+)({'|'.join(map(re.escape, sorted(EXTENSIONS)))})"
_FOLDERS = re.compile(rf"(?P<split>[^/]+)/(?P<part>images|masks|targets)/{_IMAGE}", re.IGNORECASE)
_PHOTO = re.compile(_IMAGE, re.IGNORECASE)
_LISTINGS: dict[str, list[tuple[str, re.Pattern[str], dict[str, int]]]] = {
    "pairs": [("", _PAIR, {"": PHOTO})],
    "cityscapes": [
        ("leftImg8bit/", _CITYSCAPES_PHOTO, {"": PHOTO}),
        ("gtFine/", _CITYSCAPES_LABEL, {"labelids": LABEL, "color": SECOND_LABEL}),
    ],
    "folders": [("", _FOLDERS, {"images": PHOTO, "masks": LABEL})],
    "images": [("", _FOLDERS, {"images": PHOTO, "targets": LABEL})],
}
"""Of each layout with labels: where objects lie, their names, and what an object is by the `part` of its name, if any."""
_VALIDATION_SHARE = 20  # of so many photos without labels, one is kept for validation
_SPLIT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_MAX_LISTED = 10_000  # objects of an unknown source that `detect_layout` lists before it gives up
_MAX_CLASSES_BYTES = 2**20
_MAX_KEY = 72  # of a sample; with its extension it must fit the 100 characters of a tar header


@dataclass(frozen=True)
class Sample:
    """One photo and its label; `label` is None where both are halves of one image (`pairs`), or there is none."""

    split: str
    key: str
    image: ObjectInfo
    label: ObjectInfo | None


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


def detect_layout(store: Store) -> str:
    """Return the layout of a source, by its listing.

    Raises:
        UsageError: no layout fits.
        NotFoundError: there is nothing at all.
    """
    if any(True for _ in store.list("leftImg8bit/")):
        return "cityscapes"
    if store.stat(CLASSES):
        return "folders"
    found: list[str] = []
    splits: set[str] = set()
    for info in itertools.islice(store.list(), _MAX_LISTED):
        if _PAIR.fullmatch(info.key):
            return "pairs"
        if (match := _FOLDERS.fullmatch(info.key)) and match["split"] not in splits:
            splits.add(match["split"])
            if any(True for _ in store.list(f"{match['split']}/targets/")):
                return "images"
        found.append(info.key)
    if not found:
        raise NotFoundError(f"{store.root} is empty or does not exist")
    examples = ", ".join(found[:3]) + (" …" if found[3:] else "")
    raise UsageError(
        f"{store.root} has no known layout: found {examples}; looked for "
        "leftImg8bit/SPLIT/CITY/*_leftImg8bit.png (cityscapes), SPLIT/N.jpg (pairs), "
        f"{CLASSES} beside SPLIT/images/* and SPLIT/masks/* (folders), and SPLIT/targets/* beside SPLIT/images/* (images); "
        "photographs without labels are for `vitseg pretrain`"
    )


def find_samples(store: Store, layout: str) -> Iterator[Sample | SkippedSource]:
    """Yield every sample of a source, and a row for each photo or label that has no partner.

    Samples come by split and stem, rows after them, whatever order the store lists in. Memory: the rows.

    Raises:
        UsageError: the layout is none of `LAYOUTS`.
    """
    if layout not in LAYOUTS:
        raise UsageError(f"layout {layout!r} does not exist: choose auto, {', '.join(LAYOUTS)}")
    skipped: list[SkippedSource] = []
    with contextlib.closing(Pairing()) as pairing:
        pairing.add(_list_photos(store) if layout == PHOTOS else _list_objects(store, layout))
        if layout == PHOTOS:
            _leave_out_labels(pairing)
            _choose_validation(pairing)
        for split, stem, found in pairing.stems():
            for kept, *others in found.values():  # of objects with one stem, the first by name counts
                skipped += [SkippedSource(info.key, f"{kept.key} has the same stem") for info in others]
            first = {part: objects[0] for part, objects in found.items()}
            photo, label = first.get(PHOTO), first.get(LABEL) or first.get(SECOND_LABEL)
            if label and not photo:
                skipped.append(SkippedSource(label.key, "no photo belongs to this label"))
            elif photo and not label and layout not in ("pairs", PHOTOS):
                skipped.append(SkippedSource(photo.key, "no label belongs to this photo"))
            elif photo and not _SPLIT.fullmatch(split):
                skipped.append(SkippedSource(photo.key, "the split's name has more than letters, digits, - and _"))
            elif photo:
                yield Sample(split, sample_key(stem), photo, label)
    yield from sorted(skipped, key=lambda row: row.source)


def read_classes(store: Store, layout: str) -> tuple[Label, ...]:
    """Return the labels of a source: the official table, or the `classes.json` of `folders`; none of `images`, `photos`.

    Raises:
        NotFoundError: `classes.json` is missing.
        DataError: it is malformed, or an id has two meanings.
    """
    if layout in ("images", PHOTOS):
        return ()
    if layout != "folders":
        return CITYSCAPES
    info = store.stat(CLASSES)
    if info is None:
        keys = "name, color, id and train_id"
        raise NotFoundError(f"{store.uri(CLASSES)} is missing: it lists the classes with {keys}")
    try:
        if info.size > _MAX_CLASSES_BYTES:
            raise DataError(f"{info.size} bytes are too many for a list of classes")
        rows = parse_json(store.read(CLASSES))
        if not isinstance(rows, list):
            raise DataError("it must be a list")
        labels = tuple(Label.from_json(row) for row in rows)
        train_classes(labels)
        if len({label.id for label in labels}) < len(labels):
            raise DataError("two classes have the same id")
    except DataError as error:
        raise DataError(f"{store.uri(CLASSES)}: {error}") from error
    return labels


def sample_key(stem: str) -> str:
    """Return the key of a sample in its tar: letters, digits, `-` and `_` only, at most 81 characters.

    >>> sample_key("aachen_000000_000019")
    'aachen_000000_000019'

    A stem that had to be changed keeps 8 digits of its hash, so that two stems never share a key.
    """
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", stem)
    if plain == stem and len(stem) <= _MAX_KEY:
        return stem
    return f"{plain[:_MAX_KEY]}-{hashlib.sha256(stem.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def _list_objects(store: Store, layout: str) -> Iterator[Listed]:
    for prefix, pattern, parts in _LISTINGS[layout]:
        for info in store.list(prefix):
            if match := _match(pattern, info):
                part = match["part"].lower() if "part" in pattern.groupindex else ""
                if part in parts:
                    yield match["split"], match["stem"], parts[part], info


def _list_photos(store: Store) -> Iterator[Listed]:
    """List every image as a photo, whatever its stem."""
    for info in store.list():
        if _match(_PHOTO, info) and not info.key.startswith("_vitseg/"):
            yield "train", info.key, PHOTO, info


def _leave_out_labels(pairing: Pairing) -> None:
    """Remove images that are labels, in one of the other layouts, of photographs that are there, too."""
    pairing.execute("CREATE TABLE folder (name BLOB PRIMARY KEY) WITHOUT ROWID")
    folders = (unpacked(key).rpartition("/")[0] for (key,) in pairing.execute("SELECT key FROM object"))
    paths = (PurePosixPath(folder) for folder, _ in itertools.groupby(folders))
    found = (path for folder in paths for path in (folder, *folder.parents) if path.name.lower() in _PHOTO_FOLDERS)
    pairing.executemany("INSERT OR IGNORE INTO folder VALUES (?)", ((packed(str(path).lower()),) for path in found))
    pairing.create_function("photo_folder", 1, _photo_folder, deterministic=True)
    pairing.execute("DELETE FROM object WHERE photo_folder(key) IN (SELECT name FROM folder)")


def _photo_folder(key: bytes) -> bytes | None:
    """Return the folder, in lower case, of the photograph that an image belongs to if it is a label."""
    match = _BESIDE_PHOTOS.fullmatch(unpacked(key).lower())
    if match is None:
        return None
    return packed(match["root"] + ("leftimg8bit" if match["official"] else f"{match['split']}/images"))


def _choose_validation(pairing: Pairing) -> None:
    """Move one photo in twenty, by the hash of its key, to the validation split."""
    pairing.create_function("key_hash", 1, _key_hash, deterministic=True)
    (count,) = pairing.execute("SELECT count(*) FROM object").fetchone()
    validation = max(1, count // _VALIDATION_SHARE) if count > 1 else 0
    first = "SELECT key FROM object ORDER BY key_hash(key) LIMIT ?"
    pairing.execute(f"UPDATE object SET split = ? WHERE stem IN ({first})", (packed("val"), validation))  # noqa: S608


def _key_hash(key: bytes) -> bytes:
    return hashlib.sha256(unpacked(key).encode("utf-8", "surrogateescape")).digest()


def _match(pattern: re.Pattern[str], info: ObjectInfo) -> re.Match[str] | None:
    hidden = info.key.rpartition("/")[2].startswith(".")  # `._photo.jpg` and the like of file managers
    return None if hidden else pattern.fullmatch(info.key)
