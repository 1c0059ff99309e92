"""Which layout a source has; and of one that nearly has a layout, what it lacks and what to do.

The layout is told from the listing, except for pairs: there images are opened, because photographs can have their shape.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from vitseg.data.manifest import SkippedSource
from vitseg.data.pairing import SPLITS, plain_name
from vitseg.data.pairs import find_pair
from vitseg.data.sources import CLASSES, FOLDERS, PAIR, PHOTOS
from vitseg.errors import NotFoundError, UsageError
from vitseg.images.formats import has_image_name
from vitseg.labels import CITYSCAPES
from vitseg.storage import ObjectInfo, Store

_MAX_LISTED = 10_000  # objects that are listed before giving up
_MAX_OPENED = 32  # images that are opened in search of a pair
_PHOTO_FOLDERS = {
    *("images", "image", "img", "imgs", "imgdir", "photos", "photo", "jpegimages", "inputs", "input", "rgb")
}
_MASK_FOLDERS = {
    *(
        "masks",
        "mask",
        "labels",
        "label",
        "labelids",
        "annotations",
        "annotation",
        "ann",
        "anndir",
        "gt",
        "groundtruth",
    ),
    *("seg", "segmentation", "segmentations", "segmentationclass", "targets", "target"),
}
_SPLIT_FOLDERS = {*itertools.chain(*SPLITS.values()), "test", "testing"}


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
        if (match := FOLDERS.fullmatch(info.key)) and match["split"] not in splits:
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
    infos = [info for info in itertools.islice(store.list(), _MAX_LISTED) if "_vitseg" not in info.key.split("/")]
    images = [info for info in infos if has_image_name(info.key) and not _name(info.key).startswith(".")]
    keys = [info.key for info in images]
    return _official(store, keys) or _apart(store, keys) or _together(store, keys) or _pairs_elsewhere(store, images)


def nothing_found(store: Store, layout: str, skipped: list[SkippedSource]) -> NotFoundError:
    """Return the error for a source that has not one sample in its layout, with what it lacks or examples of its rows."""
    why = "" if layout == PHOTOS else what_it_lacks(store)
    if skipped and not why:
        examples = {row.reason: row for row in reversed(skipped)}  # of each reason the first
        why = "; ".join(f"{row.source}: {row.reason}" for row in [*reversed(examples.values())][:2])
    what = "photo" if layout == PHOTOS else "labeled photo"
    return NotFoundError(f"{store.root} has no {what} in layout {layout}{why and f': {why}'}")


def _official(store: Store, keys: list[str]) -> str:
    """Return what photographs with the names of Cityscapes lack."""
    key = next((key for key in keys if key.endswith("_leftImg8bit.png")), None)
    if key is None or key.startswith("leftImg8bit/"):
        return ""
    outer, found, _ = f"/{key}".rpartition("/leftImg8bit/")
    if found and outer:
        return f"the layout cityscapes begins in {outer[1:]}/: give {store.uri(outer[1:])} as the source"
    return f"{key} is of the layout cityscapes, but not in leftImg8bit/SPLIT/CITY/: give the folder above leftImg8bit/ and gtFine/"


@dataclass(frozen=True)
class _Folder:
    """A folder of photographs or masks: its path, what is before its split and its name, and its split, if any."""

    path: str
    outer: str
    split: str
    masks: bool

    def wanted(self, split: str, name: str) -> bool:
        return self.path.removeprefix(self.outer) == f"{split}/{name}"


def _apart(store: Store, keys: list[str]) -> str:
    """Return what photographs and masks in folders of their own lack."""
    folders = list(_folders(keys))
    photos, masks = (next((folder for folder in folders if folder.masks == kind), None) for kind in (False, True))
    if photos is None or masks is None:
        return ""
    targets = any(_word(part).startswith("target") for part in masks.path.split("/"))
    split, name = photos.split or masks.split or "train", "targets" if targets else "masks"
    text = f"{photos.path}/ and {masks.path}/ look like photographs and their {name}"
    if photos.wanted(split, "images") and masks.wanted(split, name):
        if photos.outer:
            inner = store.uri(photos.outer.rstrip("/"))
            return f"{text}: give {inner} as the source{'' if targets else _classes(store, photos.outer)}"
        lacking = "" if targets else _classes(store)
        return lacking and text + lacking
    if photos.split or masks.split:
        part = ""
    elif _word(here := _name(store.root.rstrip("/"))) in _SPLIT_FOLDERS:
        return f"{text}: give the folder above {here}/ as the source"
    else:
        part = ", and a part of both to val/"
    return f"{text}: move them to {split}/images/ and {split}/{name}/{part}{'' if targets else _classes(store)}"


def _together(store: Store, keys: list[str]) -> str:
    """Return what photographs and masks in one folder lack: `a.jpg` beside `a.png` or `a_mask.png`."""
    seen: dict[str, str] = {}
    for key in keys:
        other = seen.setdefault(plain_name(str(PurePosixPath(key).with_suffix(""))), key)
        if other != key and not FOLDERS.fullmatch(key):
            split = next((part for part in key.split("/")[:-1] if _word(part) in _SPLIT_FOLDERS), "train")
            return (
                f"{other} and {key} look like a photograph and its mask: move such files to {split}/images/ and {split}/masks/"
                + _classes(store)
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
        says = [index for index, part in enumerate(parts) if _word(part) in _PHOTO_FOLDERS | _MASK_FOLDERS]
        if not says:
            continue
        at = says[-1]
        end = at + 2 if at + 1 < len(parts) and _word(parts[at + 1]) in _SPLIT_FOLDERS else at + 1
        splits = [index for index in range(end) if _word(parts[index]) in _SPLIT_FOLDERS]
        outer = "".join(f"{part}/" for part in parts[: min([at, *splits])])
        split = parts[splits[-1]] if splits else ""
        yield _Folder("/".join(parts[:end]), outer, split, _word(parts[at]) in _MASK_FOLDERS)


def _classes(store: Store, outer: str = "") -> str:
    """Return what to do about the list of classes; empty where it is in its place."""
    place = f"{outer}{CLASSES}"
    if store.stat(place):
        return ""
    found = next((info.key for info in itertools.islice(store.list(), _MAX_LISTED) if _name(info.key) == CLASSES), None)
    if found:
        return f"; move {found} to {store.uri(place)}"
    return f"; {store.uri(place)} is missing: list the classes there with name, color, id and train_id"


def _may_be_pair(info: ObjectInfo) -> bool:
    return info.size > 0 and not _name(info.key).startswith(".")


def _name(key: str) -> str:
    return key.rpartition("/")[2]


def _word(name: str) -> str:
    """Return the letters of a name: `img_dir` and `ImgDir` are one word."""
    return re.sub("[^a-z]", "", name.lower())
