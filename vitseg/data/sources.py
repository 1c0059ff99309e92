"""What a source holds: photos and their labels, paired, in one of four layouts; or photos alone.

    cityscapes   leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png
                 gtFine/{split}/{city}/{stem}_gtFine_labelIds.png, or _color.png where ids are missing
    pairs        {split}/{n}.jpg: photo left, colour label right, one image twice as wide as high
    folders      {split}/images/*, {split}/masks/* with equal stems, and a classes.json
    images       {split}/images/*, {split}/targets/* with equal stems: pairs of images, without classes
    photos       any images, wherever they lie, without labels: for pretraining; labels of the other layouts are left out

Only listings are read here; nothing is opened but `classes.json`.
"""

import hashlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from vitseg.data.manifest import SkippedSource, parse_json
from vitseg.errors import DataError, NotFoundError, UsageError
from vitseg.labels import CITYSCAPES, Label, train_classes
from vitseg.storage import ObjectInfo, Store

LAYOUTS = ("cityscapes", "pairs", "folders", "images", "photos")
PHOTOS = "photos"
CLASSES = "classes.json"

_CITYSCAPES_PHOTO = re.compile(r"leftImg8bit/(?P<split>[^/]+)/[^/]+/(?P<stem>[^/]+)_leftImg8bit\.png")
_CITYSCAPES_LABEL = re.compile(r"gtFine/(?P<split>[^/]+)/[^/]+/(?P<stem>[^/]+)_gtFine_(?P<kind>labelIds|color)\.png")
_BESIDE_PHOTOS = re.compile(  # labels: what they belong to, in lower case, is there too
    r"(?P<root>(?:.*/)?)(?:(?P<official>gtfine|gtcoarse)/.+|(?P<split>[^/]+)/(?:masks|targets)/.+)"
)
_PAIR = re.compile(r"(?P<split>[^/]+)/(?P<stem>[^/]+)\.(jpe?g|png)", re.IGNORECASE)
_FOLDERS = re.compile(
    r"(?P<split>[^/]+)/(?P<part>images|masks|targets)/(?P<stem>.+)\.(jpe?g|png|webp|bmp|tiff?)", re.IGNORECASE
)
_PHOTO = re.compile(r"(?P<stem>.+)\.(jpe?g|png|webp|bmp|tiff?)", re.IGNORECASE)
_VAL_SHARE = 20  # of so many photos without labels one is kept for validation
_SPLIT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_LOOKED_AT = 10_000  # objects of an unknown source that `detect_layout` lists before it gives up
_MAX_CLASSES_BYTES = 2**20
_MAX_KEY = 72  # of a sample; with its extension it must fit the 100 characters of a tar header


@dataclass(frozen=True)
class Sample:
    """One photo and its label; `label` is None where both are halves of one image (`pairs`), or there is none."""

    split: str
    key: str
    image: ObjectInfo
    label: ObjectInfo | None


def detect_layout(store: Store) -> str:
    """Tell the layout of a source by its listing.

    Raises:
        UsageError: none of the four fits; the message says what was looked for and what is there.
        NotFoundError: there is nothing at all.
    """
    if any(True for _ in store.list("leftImg8bit/")):
        return "cityscapes"
    if store.stat(CLASSES):
        return "folders"
    found: list[str] = []
    splits: set[str] = set()
    for info in itertools.islice(store.list(), _LOOKED_AT):
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

    Samples come by split and stem, rows after them, whatever order the store lists in.

    Raises:
        UsageError: the layout is none of `LAYOUTS`.
    """
    if layout == "pairs":
        photos, labels, skipped = _collect_pairs(store)
    elif layout == "cityscapes":
        photos, labels, skipped = _collect_cityscapes(store)
    elif layout == "folders":
        photos, labels, skipped = _collect_folders(store, "masks")
    elif layout == "images":
        photos, labels, skipped = _collect_folders(store, "targets")
    elif layout == PHOTOS:
        photos, labels, skipped = _collect_photos(store)
    else:
        raise UsageError(f"layout {layout!r} does not exist: choose auto, {', '.join(LAYOUTS)}")
    for split, stem in sorted(photos.keys() | labels.keys()):
        photo, label = photos.get((split, stem)), labels.get((split, stem))
        if photo is None:
            skipped.append(SkippedSource(labels[split, stem].key, "no photo belongs to this label"))
        elif label is None and layout not in ("pairs", PHOTOS):
            skipped.append(SkippedSource(photo.key, "no label belongs to this photo"))
        elif not _SPLIT.fullmatch(split):
            skipped.append(SkippedSource(photo.key, "the split's name has more than letters, digits, - and _"))
        else:
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


Found = dict[tuple[str, str], ObjectInfo]  # (split, stem) → object


def _collect_pairs(store: Store) -> tuple[Found, Found, list[SkippedSource]]:
    photos: Found = {}
    skipped: list[SkippedSource] = []
    for info in store.list():
        if match := _match(_PAIR, info):
            _keep(photos, match, info, skipped)
    return photos, {}, skipped


def _collect_cityscapes(store: Store) -> tuple[Found, Found, list[SkippedSource]]:
    photos: Found = {}
    by_kind: dict[str, Found] = {"color": {}, "labelIds": {}}
    skipped: list[SkippedSource] = []
    for info in store.list("leftImg8bit/"):
        if match := _match(_CITYSCAPES_PHOTO, info):
            _keep(photos, match, info, skipped)
    for info in store.list("gtFine/"):
        if match := _match(_CITYSCAPES_LABEL, info):
            _keep(by_kind[match["kind"]], match, info, skipped)
    return photos, by_kind["color"] | by_kind["labelIds"], skipped


def _collect_folders(store: Store, labels: str) -> tuple[Found, Found, list[SkippedSource]]:
    """Collect `{split}/images/*` and `{split}/LABELS/*`."""
    parts: dict[str, Found] = {"images": {}, labels: {}}
    skipped: list[SkippedSource] = []
    for info in store.list():
        if (match := _match(_FOLDERS, info)) and match["part"].lower() in parts:
            _keep(parts[match["part"].lower()], match, info, skipped)
    return parts["images"], parts[labels], skipped


def _collect_photos(store: Store) -> tuple[Found, Found, list[SkippedSource]]:
    """Take every image for a photo, but for labels of the other layouts; one in twenty, by its key's hash, validates."""
    found = [info for info in store.list() if _match(_PHOTO, info) and not info.key.startswith("_vitseg/")]
    folders = {str(parent).lower() for info in found for parent in PurePosixPath(info.key).parents}
    found = [info for info in found if not _lies_beside_photos(info.key.lower(), folders)]
    found.sort(key=lambda info: hashlib.sha256(info.key.encode("utf-8", "surrogateescape")).digest())
    held_back = max(1, len(found) // _VAL_SHARE) if len(found) > 1 else 0
    return {("val" if i < held_back else "train", info.key): info for i, info in enumerate(found)}, {}, []


def _lies_beside_photos(key: str, folders: set[str]) -> bool:
    """Say whether an image, by its key, is the label of photographs in one of these folders."""
    match = _BESIDE_PHOTOS.fullmatch(key)
    if match is None:
        return False
    return match["root"] + ("leftimg8bit" if match["official"] else f"{match['split']}/images") in folders


def _match(pattern: re.Pattern[str], info: ObjectInfo) -> re.Match[str] | None:
    hidden = PurePosixPath(info.key).name.startswith(".")  # `._photo.jpg` and the like of file managers
    return None if hidden else pattern.fullmatch(info.key)


def _keep(found: Found, match: re.Match[str], info: ObjectInfo, skipped: list[SkippedSource]) -> None:
    """Add an object; of two with one stem the first by name stays, whatever the store's order."""
    place = match["split"], match["stem"]
    other = found.setdefault(place, info)
    if other is not info:
        found[place], loser = sorted((other, info), key=lambda row: row.key)
        skipped.append(SkippedSource(loser.key, f"{found[place].key} has the same stem"))
