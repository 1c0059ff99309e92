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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from vitseg.data import LAYOUTS
from vitseg.data.manifest import SkippedSource
from vitseg.data.pairing import COARSE_LABEL, LABEL, PHOTO, SECOND_LABEL, Listed, Pairing
from vitseg.data.temporary_database import packed, unpacked
from vitseg.errors import DataError, NotFoundError, UsageError
from vitseg.images.formats import EXTENSIONS, has_image_name
from vitseg.json_input import parse_json
from vitseg.labels import CITYSCAPES, Label, check_names, train_classes
from vitseg.storage import ObjectInfo, Store

PHOTOS = "photos"
CLASSES = "classes.json"
MAX_SOURCE_BYTES = 256 * 2**20
"""Larger source files are skipped."""

_CITYSCAPES_PHOTO = re.compile(r"leftImg8bit/(?P<split>[^/]+)/[^/]+/(?P<stem>[^/]+)_leftImg8bit\.png")
_CITYSCAPES_LABEL = re.compile(
    r"gt(?P<kind>Fine|Coarse)/(?P<split>[^/]+)/[^/]+/(?P<stem>[^/]+)_gt(?P=kind)_(?P<part>labelIds|color)\.png"
)
_BESIDE_PHOTOS = re.compile(  # labels: what they belong to, in lower case, is there too
    r"(?P<root>(?:.*/)?)(?:(?P<official>gtfine|gtcoarse)/.+|(?P<split>[^/]+)/(?:masks|targets)/.+)",
    re.DOTALL,
)
_PHOTO_FOLDERS = ("leftimg8bit", "images")  # where those photographs lie
_NAMES = re.IGNORECASE | re.DOTALL  # names may hold line ends
_IMAGE = rf"(?P<stem>.+)({'|'.join(map(re.escape, sorted(EXTENSIONS)))})"
FOLDERS = re.compile(rf"(?P<split>[^/]+)/(?P<part>images|masks|targets)/{_IMAGE}", _NAMES)
_PHOTO = re.compile(_IMAGE, _NAMES)
PAIR = re.compile(rf"(?P<split>[^/]+)/{_IMAGE.replace('.+', '[^/]+')}", _NAMES)
_LISTINGS: dict[str, list[tuple[str, re.Pattern[str], dict[str, int], str]]] = {
    "pairs": [("", PAIR, {"": PHOTO}, "a pair lies in the folder of its split, no deeper and no higher")],
    "cityscapes": [
        ("leftImg8bit/", _CITYSCAPES_PHOTO, {"": PHOTO}, "its name is not SPLIT/CITY/…_leftImg8bit.png"),
        ("gtFine/", _CITYSCAPES_LABEL, {"labelids": LABEL, "color": SECOND_LABEL}, ""),
        ("gtCoarse/", _CITYSCAPES_LABEL, {"labelids": COARSE_LABEL}, ""),
    ],
    "folders": [("", FOLDERS, {"images": PHOTO, "masks": LABEL}, "it is in no folder SPLIT/images or SPLIT/masks")],
    "images": [("", FOLDERS, {"images": PHOTO, "targets": LABEL}, "it is in no folder SPLIT/images or SPLIT/targets")],
}
"""Of each layout with labels: where objects lie, their names, what an object is by the `part` of its name, if any, and why an
image with another name is left out, if it is told."""
_APPLE_DOUBLE = "._"  # how macOS names what it knows of a file: never an image
_VALIDATION_SHARE = 20  # of so many photos without labels, one is kept for validation
_SPLIT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_MAX_CLASSES_BYTES = 2**20
_MAX_KEY = 72  # of a sample; with its extension it must fit the 100 characters of a tar header


@dataclass(frozen=True)
class Sample:
    """One photo and its label; `label` is None where both are halves of one image (`pairs`), or there is none."""

    split: str
    key: str
    image: ObjectInfo
    label: ObjectInfo | None


def find_samples(
    store: Store, layout: str, note: Callable[[str], None] = lambda text: None
) -> Iterator[Sample | SkippedSource]:
    """Yield every sample of a source, and a row for each other image that can't be one.

    Samples come by split and stem, then those that belong together by names that are alike, then the rows, whatever order
    the store lists in. Memory: the rows. `note` is called with what people should know of how names were understood.

    Raises:
        UsageError: the layout is none of `LAYOUTS`.
    """
    if layout not in LAYOUTS:
        raise UsageError(f"layout {layout!r} does not exist: choose auto, {', '.join(LAYOUTS)}")
    skipped: list[SkippedSource] = []
    with contextlib.closing(Pairing()) as pairing:
        pairing.add(_list_photos(store, skipped) if layout == PHOTOS else _list_objects(store, layout, skipped))
        if layout == PHOTOS:
            _leave_out_labels(pairing)
            _choose_validation(pairing)
        for old, new in pairing.rename_splits().items():
            note(f"the split {old} is taken as {new}")
        for split, stem, found in pairing.stems():
            for kept, *others in found.values():  # of objects with one stem, the first by name counts
                skipped += [SkippedSource(info.key, f"{kept.key} has the same stem") for info in others]
            first = {part: objects[0] for part, objects in found.items()}
            photo, label = first.get(PHOTO), first.get(LABEL) or first.get(SECOND_LABEL)
            if not photo or not (label or layout in ("pairs", PHOTOS)):
                pairing.leave(split, stem, first)
            elif not _SPLIT.fullmatch(split):
                skipped.append(SkippedSource(photo.key, "the split's name has more than letters, digits, - and _"))
            else:
                yield Sample(split, sample_key(stem), photo, label)
        yield from _pair_alike(pairing, skipped, note)
    yield from sorted(skipped, key=lambda row: row.source)


def _pair_alike(pairing: Pairing, skipped: list[SkippedSource], note: Callable[[str], None]) -> Iterator[Sample]:
    """Yield a sample of each photo and label whose names are alike and nobody else's; what is left becomes rows."""
    count, example = 0, ""
    for split, found in pairing.alike():
        photos, labels = found.get(PHOTO, []), found.get(LABEL) or found.get(SECOND_LABEL, [])
        if len(photos) == len(labels) == 1 and _SPLIT.fullmatch(split):
            (stem, photo), (_, label) = photos[0], labels[0]
            count, example = count + 1, example or f"{photo.key} with {label.key}"
            yield Sample(split, sample_key(stem), photo, label)
            continue
        several = " alone: other names are like its own" if photos and labels else ""
        coarse = ", only a coarse one, which is not read" if COARSE_LABEL in found else ""
        skipped += [SkippedSource(info.key, f"no label belongs to this photo{several or coarse}") for _, info in photos]
        skipped += [SkippedSource(info.key, f"no photo belongs to this label{several}") for _, info in labels]
    if count:
        what = "photo is" if count == 1 else "photos are"
        note(f"{count} {what} paired with labels whose names are not equal but alike: {example}")


def read_classes(store: Store, layout: str) -> tuple[Label, ...]:
    """Return the labels of a source: the official table, or the `classes.json` of `folders`; none of `images`, `photos`.

    Raises:
        NotFoundError: `classes.json` is missing.
        DataError: it is malformed, or an id or a name has two meanings.
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
        check_names(labels)
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


def _list_objects(store: Store, layout: str, skipped: list[SkippedSource]) -> Iterator[Listed]:
    for prefix, pattern, parts, elsewhere in _LISTINGS[layout]:
        for info in store.list(prefix):
            if match := _match(pattern, info):
                part = match["part"].lower() if "part" in pattern.groupindex else ""
                if part in parts:
                    yield match["split"], match["stem"], parts[part], info
            elif elsewhere:
                skipped += _row_of_image(info, elsewhere)


def _list_photos(store: Store, skipped: list[SkippedSource]) -> Iterator[Listed]:
    """List every image as a photo, whatever its stem."""
    for info in store.list():
        if info.key.startswith("_vitseg/"):
            continue
        if _match(_PHOTO, info):
            yield "train", info.key, PHOTO, info
        else:
            skipped += _row_of_image(info, "")


def _row_of_image(info: ObjectInfo, elsewhere: str) -> list[SkippedSource]:
    """Return the row of an object that has the name of an image, but no place in the layout; no row of anything else."""
    *folders, name = info.key.split("/")
    if not has_image_name(info.key) or name.startswith(_APPLE_DOUBLE) or "_vitseg" in folders:
        return []
    reason = elsewhere
    if name.startswith("."):
        reason = "its name begins with a dot: the file is hidden"
    elif not _PHOTO.fullmatch(info.key):
        reason = f"{PurePosixPath(name).suffix} files are not read"
    return [SkippedSource(info.key, reason)]


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
    return None if info.key.rpartition("/")[2].startswith(".") else pattern.fullmatch(info.key)
