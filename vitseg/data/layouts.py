"""Which layout a source has; and of one that nearly has a layout, what it lacks and what to do.

The layout is told from the listing, except for pairs: there images are opened, because photographs can have their shape.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from vitseg.data.manifest import SkippedSource
from vitseg.data.pairing import SPLITS, plain_name
from vitseg.data.pairs import find_pair
from vitseg.data.sources import CLASSES, FOLDERS, MAX_SOURCE_BYTES, PAIR, PHOTOS
from vitseg.errors import NotFoundError, UsageError
from vitseg.images.formats import has_image_name
from vitseg.labels import CITYSCAPES
from vitseg.storage import ObjectInfo, Store

_MAX_LISTED = 10_000  # objects that are listed in search of a layout
_MAX_READ = 100_000  # objects that are listed to say what is missing …
_MAX_A_FOLDER = 100  # … and kept, of each folder
_MAX_OPENED = 32  # images that are opened in search of a pair
_MAX_ASKED = 32  # splits that are searched for targets
_PHOTO_WORDS = "images image img imgs imgdir photos photo jpegimages inputs input rgb"
_MASK_WORDS = """
masks mask labels label labelids annotations annotation ann anndir gt groundtruth
seg segmentation segmentations segmentationclass targets target
"""
_PHOTO_FOLDERS, _MASK_FOLDERS = frozenset(_PHOTO_WORDS.split()), frozenset(_MASK_WORDS.split())
_SPLIT_FOLDERS = {*itertools.chain(*SPLITS.values()), "test", "testing"}


def choose_layout(store: Store, layout: str) -> str:
    """Return the layout of a source that is read in `layout`, which may be `auto`.

    Raises:
        UsageError, NotFoundError: see `detect_layout`; or `folders` has no list of classes.
    """
    if layout == "auto":
        return detect_layout(store)
    if layout == "folders" and not store.stat(CLASSES) and (lacking := what_it_lacks(store)):
        raise NotFoundError(f"{store.root} is not in layout folders: {lacking}")
    return layout


def detect_layout(store: Store) -> str:
    """Return the layout of a source.

    Raises:
        UsageError: no layout fits; the message says what is nearest and what it lacks.
        NotFoundError: there is nothing at all.
    """
    if any(True for _ in store.list("leftImg8bit/")):
        return "cityscapes"
    if store.stat(CLASSES):
        return "folders"
    found: list[str] = []
    splits: set[str] = set()
    opened, why = 0, ""
    for info in itertools.islice(store.list(), _MAX_LISTED):
        if PAIR.fullmatch(info.key) and _may_be_pair(info) and opened < _MAX_OPENED:
            opened += 1
            is_pair, reason = find_pair(store, [info], CITYSCAPES)
            if is_pair:
                return "pairs"
            why = why or reason
        if (match := FOLDERS.fullmatch(info.key)) and match["split"] not in splits and len(splits) < _MAX_ASKED:
            splits.add(match["split"])
            if any(True for _ in store.list(f"{match['split']}/targets/")):
                return "images"
        found.append(info.key)
    if not found:
        raise NotFoundError(f"{store.root} is empty or does not exist")
    if lacking := what_it_lacks(store):
        raise UsageError(f"{store.root} has no known layout: {lacking}")
    examples = ", ".join(found[:3]) + (" …" if found[3:] else "")
    seen = f"its images are no pairs of photograph and label ({why})" if why else f"found {examples}"
    raise UsageError(
        f"{store.root} has no known layout: {seen}; looked for "
        "leftImg8bit/SPLIT/CITY/*_leftImg8bit.png (cityscapes), SPLIT/N.jpg (pairs), "
        f"{CLASSES} beside SPLIT/images/* and SPLIT/masks/* (folders), and SPLIT/targets/* beside SPLIT/images/* (images); "
        "photographs without labels are for `vitseg pretrain`"
    )


def what_it_lacks(store: Store) -> str:
    """Return what a source is nearly, what it lacks and what to do, in one clause; empty where it is not near anything."""
    images: list[ObjectInfo] = []
    lists: list[str] = []
    kept: Counter[str] = Counter()
    for info in itertools.islice(store.list(), _MAX_READ):
        *folders, name = info.key.split("/")
        if name.lower() == CLASSES:
            lists.append(info.key)
        elif has_image_name(name) and not name.startswith(".") and "_vitseg" not in folders:
            kept["/".join(folders)] += 1
            if kept["/".join(folders)] <= _MAX_A_FOLDER:
                images.append(info)
    keys = [info.key for info in images]
    return (
        _apart(store, keys, lists)
        or _official(store, keys)
        or _together(store, keys, lists)
        or _pairs_elsewhere(store, images)
    )


def nothing_found(store: Store, layout: str, skipped: list[SkippedSource]) -> NotFoundError:
    """Return the error for a source that has not one sample in its layout, with what it lacks or examples of its rows."""
    why = "" if layout == PHOTOS else what_it_lacks(store)
    if skipped and not why:
        examples: dict[str, str] = {}
        for row in skipped:
            examples.setdefault(row.reason, row.source)
        why = "; ".join(f"{source}: {reason}" for reason, source in [*examples.items()][:2])
    what = "photo" if layout == PHOTOS else "labeled photo"
    return NotFoundError(f"{store.root} has no {what} in layout {layout}{why and f': {why}'}")


def _official(store: Store, keys: list[str]) -> str:
    """Return what files with the names of Cityscapes lack."""
    photo = next((key for key in keys if key.endswith("_leftImg8bit.png")), "")
    label = next((key for key in keys if "_gtFine_" in _name(key)), "")
    if not (photo or label) or photo.startswith("leftImg8bit/"):
        return ""
    outer, both = photo.partition("leftImg8bit/")[0], label.partition("gtFine/")[0]
    if outer and outer == both:
        return f"the layout cityscapes begins in {outer}: give {store.uri(outer.rstrip('/'))} as the source"
    return f"{photo or label} is of the layout cityscapes: give the folder in which leftImg8bit/ and gtFine/ lie side by side"


@dataclass(frozen=True)
class _Folder:
    """A folder of photographs or masks: its path, what is before its split and its name, and its split, if any."""

    path: str
    outer: str
    split: str
    masks: bool

    def wanted(self, split: str, name: str) -> bool:
        return self.path.removeprefix(self.outer) == f"{split}/{name}"


def _apart(store: Store, keys: list[str], lists: list[str]) -> str:
    """Return what photographs and masks in folders of their own lack."""
    folders = list(_folders(keys))
    photos, masks = (next((folder for folder in folders if folder.masks == kind), None) for kind in (False, True))
    if photos is None or masks is None:
        return ""
    targets = any(_words(part) & {"target", "targets"} for part in masks.path.split("/"))
    split, name = photos.split or masks.split or "train", "targets" if targets else "masks"
    text = f"{photos.path}/ and {masks.path}/ look like photographs and their {name}"
    if photos.wanted(split, "images") and masks.wanted(split, name):
        if photos.outer:
            inner = store.uri(photos.outer.rstrip("/"))
            return f"{text}: give {inner} as the source{'' if targets else _classes(store, lists, photos.outer)}"
        lacking = "" if targets else _classes(store, lists)
        return lacking and text + lacking
    if photos.split or masks.split:
        part = ""
    elif (here := _name(store.root.rstrip("/"))).lower() in _SPLIT_FOLDERS:
        return f"{text}: give the folder above {here}/ as the source"
    else:
        part = ", and a part of both to val/"
    return f"{text}: move them to {split}/images/ and {split}/{name}/{part}{'' if targets else _classes(store, lists)}"


def _together(store: Store, keys: list[str], lists: list[str]) -> str:
    """Return what photographs and masks in one folder lack: `a.jpg` beside `a.png` or `a_mask.png`."""
    seen: dict[str, str] = {}
    for key in keys:
        other = seen.setdefault(plain_name(str(PurePosixPath(key).with_suffix(""))), key)
        if other != key and not FOLDERS.fullmatch(key):
            split = next(filter(None, map(_split_of, key.split("/")[:-1])), "train")
            return (
                f"{other} and {key} look like a photograph and its mask: move such files to {split}/images/ and {split}/masks/"
                + _classes(store, lists)
            )
    return ""


def _pairs_elsewhere(store: Store, images: list[ObjectInfo]) -> str:
    """Return what pairs lack that lie too high or too deep."""
    elsewhere = [info for info in images if not PAIR.fullmatch(info.key) and _may_be_pair(info)]
    if not elsewhere or not find_pair(store, elsewhere[: _MAX_OPENED // 4], CITYSCAPES)[0]:
        return ""
    outer = elsewhere[0].key.rpartition("/")[0].rpartition("/")[0]
    if outer:
        return f"the layout pairs begins in {outer}/: give {store.uri(outer)} as the source"
    return "its pairs are in no split: move them to train/, and a part of them to val/, or give the folder above"


def _folders(keys: list[str]) -> Iterator[_Folder]:
    """Yield the folder of photographs or masks that each image is in, by the last name that says so."""
    for key in keys:
        parts = key.split("/")[:-1]
        says = [index for index, part in enumerate(parts) if _words(part) & (_PHOTO_FOLDERS | _MASK_FOLDERS)]
        if not says:
            continue
        at = says[-1]
        end = at + 2 if at + 1 < len(parts) and _split_of(parts[at + 1]) else at + 1
        splits = [index for index in range(end) if _split_of(parts[index])]
        outer = "".join(f"{part}/" for part in parts[: min([at, *splits])])
        split = _split_of(parts[splits[-1]]) if splits else ""
        yield _Folder("/".join(parts[:end]), outer, split, bool(_words(parts[at]) & _MASK_FOLDERS))


def _split_of(part: str) -> str:
    """Return the split that the name of a folder says, if any: all of `Train`, and `train` of `train_images`."""
    if part.lower() in _SPLIT_FOLDERS:
        return part
    words = _words(part)
    return next(iter(sorted(words & _SPLIT_FOLDERS)), "") if words & (_PHOTO_FOLDERS | _MASK_FOLDERS) else ""


def _classes(store: Store, lists: list[str], outer: str = "") -> str:
    """Return what to do about the list of classes; empty where it is in its place. `lists`: what is called like it."""
    place = f"{outer}{CLASSES}"
    if place in lists:
        return ""
    if lists:
        return f"; move {lists[0]} to {store.uri(place)}"
    return f"; {store.uri(place)} is missing: list the classes there with name, color, id and train_id"


def _may_be_pair(info: ObjectInfo) -> bool:
    return 0 < info.size <= MAX_SOURCE_BYTES and not _name(info.key).startswith(".")


def _name(key: str) -> str:
    return key.rpartition("/")[2]


def _words(name: str) -> set[str]:
    """Return the words of a name, and all of its letters as one word: `img_dir` and `ImgDir` both have `imgdir`."""
    words = re.findall("[a-z]+", name.lower())
    return {*words, "".join(words)}
