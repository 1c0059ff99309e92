"""Odd folders: how photographs and masks lie there, what they are called, and what is right for each."""

import json
import random
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.odd.class_lists import ClassList, draw_labels, row, target_of
from tests.odd.photographs import draw_picture, saved
from vitseg.labels import CITYSCAPES

CLASSES = ClassList(
    "three", (row("ground", (0, 0, 0), 0, 0), row("left", (255, 0, 40), 1, 1), row("right", (0, 255, 90), 2, 2)),
    paintable=(0, 1, 2),
)  # fmt: skip
SIZE = (24, 24)


@dataclass
class OddFolder:
    """Files and links of a source, and what is right: each photograph by its key, with its target."""

    what: str
    files: dict[str, bytes] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    """Where a link lies, and where it points to, as seen from there."""
    targets: dict[str, np.ndarray] = field(default_factory=dict)
    """Of photographs that have a label."""
    labels: dict[str, str] = field(default_factory=dict)
    """The key of each photograph's label, by which a row may name it."""
    lost: set[str] = field(default_factory=set)
    """Files that can't be a sample, and need a row."""
    clear: bool = True
    """Whether this is a layout as described: else the command may refuse it in one line."""
    rows_only: bool = False
    """Whether a sample of any file would be wrong."""
    size: tuple[int, int] = SIZE

    def write(self, root: Path) -> None:
        """Write all of it into a folder."""
        for key, data in self.files.items():
            path = root / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        for key, target in self.links.items():
            path = root / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(target)

    def add(self, r: random.Random, photo: str, label: str | None, name: str | None = None) -> None:
        """Add a photograph and its label; `name` is what they are called there, if not what the files are called."""
        picture = draw_labels(r, CLASSES, *self.size)
        self.files[photo] = saved(
            draw_picture(r, *self.size), "JPEG" if photo.lower().endswith(("jpg", "jpeg")) else "PNG"
        )
        if label is None or photo.rpartition("/")[2].startswith("."):  # hidden files have a row that says so
            self.lost.add(photo)
            return
        self.files[label] = saved(target_of(picture, CLASSES), "PNG")
        self.targets[name or photo], self.labels[name or photo] = target_of(picture, CLASSES), label

    def with_classes(self) -> "OddFolder":
        self.files["classes.json"] = json.dumps(list(CLASSES.rows)).encode()
        return self


STEMS = ("0", "street 1", "x#y", "q?a=b", "50%20off", "-rf", "'quoted'", "a.b.c", "日本", "e\u0301", "\u00e9", "[a]*",
"new\nline", " lead", "trail ", "A", "a_b",
         "a b", "n" * 120, "😀", "\udcff\udcfe", "..c", "tab\t", "back\\slash", "$HOME", "~", "semi;colon", "con", "100%",
         "%2F", "a+b", "&amp;")  # fmt: skip


def plain(r: random.Random) -> OddFolder:
    made = OddFolder("folders").with_classes()
    nested = r.choice(["", "", "city/", "a/b/", "images/", "masks/"])
    splits = r.choice(
        [
            ("train", "val"),
            ("train",),
            ("train", "valid"),
            ("train", "validation", "test"),
            ("Train", "Val"),
            ("training",),
            ("fold-1", "fold_2"),
        ]
    )
    folders = r.choice([("images", "masks")] * 4 + [("Images", "MASKS")])
    for split in splits:
        for stem in r.sample(STEMS, r.randrange(1, 5)):
            extension = r.choice(["jpg", "JPG", "png", "jpeg"])
            made.add(
                r,
                f"{split}/{folders[0]}/{nested}{stem}.{extension}",
                f"{split}/{folders[1]}/{nested}{stem}.{r.choice(['png', 'PNG'])}",
            )
    made.what += f" {','.join(splits)} {nested}"
    return made


def missing_partners(r: random.Random) -> OddFolder:
    made = plain(r)
    made.what = "missing partners"
    made.add(r, "train/images/alone.jpg", None)
    made.files["train/masks/lonely.png"] = saved(np.zeros(SIZE, np.uint8), "PNG")
    made.lost.add("train/masks/lonely.png")
    if r.random() < 0.5:
        made.files["train/images/empty.jpg"] = b""
        made.files["train/masks/empty.png"] = made.files["train/masks/lonely.png"]
        made.lost.add("train/images/empty.jpg")
    return made


def equal_stems(r: random.Random) -> OddFolder:
    """Two photographs with one stem: which of them the label belongs to nobody knows."""
    made = plain(r)
    made.what = "equal stems"
    first, *_ = made.targets
    stem, _, extension = first.rpartition(".")
    other = f"{stem}.{'bmp' if extension.lower() != 'bmp' else 'png'}"
    made.files[other] = saved(draw_picture(r, *SIZE), "BMP")
    made.labels[other], made.targets[other] = made.labels[first], made.targets[first]
    made.clear = False
    return made


def near_layout(r: random.Random) -> OddFolder:
    """Layouts that look like one of ours: read right, or refused in one line."""
    made = OddFolder("near", clear=False)
    if r.random() < 0.7:
        made.with_classes()
    made.size = r.choice([SIZE, SIZE, (24, 48)])  # wide ones are no pairs
    kind = r.choice(
        [
            "VOC",
            "mmsegmentation",
            "CamVid",
            "ADE",
            "flat",
            "parts first",
            "beside",
            "suffix",
            "case",
            "unicode",
            "label folders",
            "deeper",
            "no classes",
            "one split flat",
        ]
    )
    for number in range(3):
        stem = f"\u00e9 {number}" if kind == "unicode" else f"p{number}"
        suffix = r.choice(["_mask", "-mask", "_label", "_gt", ".mask", "_labelIds"]) if kind == "suffix" else ""
        photo, label = {
            "VOC": (f"JPEGImages/{stem}.jpg", f"SegmentationClass/{stem}.png"),
            "mmsegmentation": (f"img_dir/train/{stem}.jpg", f"ann_dir/train/{stem}.png"),
            "CamVid": (f"train/{stem}.png", f"trainannot/{stem}.png"),
            "ADE": (f"images/training/{stem}.jpg", f"annotations/training/{stem}.png"),
            "flat": (f"images/{stem}.jpg", f"masks/{stem}.png"), "parts first": (f"images/train/{stem}.jpg",
            f"masks/train/{stem}.png"),
            "beside": (f"train/{stem}.jpg", f"train/{stem}.png"), "suffix": (f"train/images/{stem}.jpg",
            f"train/masks/{stem}{suffix}.png"),
            "case": (f"train/images/{stem}.jpg", f"train/masks/{stem.upper()}.png"),
            "unicode": (f"train/images/{stem}.jpg", f"train/masks/{unicodedata.normalize('NFD', stem)}.png"),
            "label folders": (f"train/images/{stem}.jpg", f"train/{r.choice(['labels', 'annotations', 'mask'])}/{stem}.png"),
            "deeper": (f"data/train/images/{stem}.jpg", f"data/train/masks/{stem}.png"),
            "no classes": (f"train/images/{stem}.jpg", f"train/masks/{stem}.png"),
            "one split flat": (f"images/{stem}.jpg" if number else "train/images/t.jpg",
            f"masks/{stem}.png" if number else "train/masks/t.png"),
        }[kind]  # fmt: skip
        made.add(r, photo, label)
    if kind == "no classes":
        made.files.pop("classes.json", None)
    made.what = f"near: {kind}"
    return made


def panoramas(r: random.Random) -> OddFolder:
    """Photographs that are twice as wide as high, and no pairs."""
    made = OddFolder("panoramas", clear=False, rows_only=True)
    for number in range(3):
        picture = draw_picture(r, 24, 48, smooth=r.random() < 0.5)
        made.files[f"{r.choice(['train', 'val'])}/{number}.{r.choice(['jpg', 'png'])}"] = saved(
            picture, r.choice(["JPEG", "PNG"])
        )
    made.lost = set(made.files)
    return made


def pairs(r: random.Random) -> OddFolder:
    made = OddFolder("pairs")
    roads = [label for label in CITYSCAPES if label.name in ("road", "building", "sky", "car")]
    for number in range(3):
        places = np.random.default_rng(r.getrandbits(32)).integers(0, len(roads), (3, 3)).repeat(16, 0).repeat(16, 1)
        colors = np.array([label.color for label in roads], np.uint8)[places]
        both = np.concatenate([draw_picture(r, 48, 48, smooth=True), colors], 1)
        key = f"{r.choice(['train', 'val']) if number else 'train'}/{number}.{r.choice(['jpg', 'jpeg', 'JPG'])}"
        made.files[key] = saved(both, "JPEG", quality=95, subsampling=0)
        made.targets[key] = np.array([label.train_id for label in roads], np.uint8)[places]
    made.size = (48, 48)
    return made


def cityscapes(r: random.Random) -> OddFolder:
    made = OddFolder("cityscapes", size=SIZE)
    used = [label for label in CITYSCAPES if label.train_id < 19 and label.name != "pole"]
    for number in range(3):
        chosen = r.sample(used, 4)
        places = np.random.default_rng(r.getrandbits(32)).integers(0, 4, (3, 3)).repeat(8, 0).repeat(8, 1)
        split, city = r.choice(["train", "val"]) if number else "train", r.choice(["ulm", "st. gallen"])
        stem = f"{city}_{number:06d}_000019"
        key = f"leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png"
        made.files[key] = saved(draw_picture(r, *SIZE), "PNG")
        colors = np.array([label.color for label in chosen], np.uint8)[places]
        ids = np.array([label.id for label in chosen], np.uint8)[places]
        if r.random() < 0.6:
            made.files[f"gtFine/{split}/{city}/{stem}_gtFine_labelIds.png"] = saved(ids, "PNG")
        if r.random() < 0.5 or not any(stem in key and "labelIds" in key for key in made.files):
            made.files[f"gtFine/{split}/{city}/{stem}_gtFine_color.png"] = saved(colors, "PNG")
        made.targets[key] = np.array([label.train_id for label in chosen], np.uint8)[places]
        made.files[f"gtFine/{split}/{city}/{stem}_gtFine_instanceIds.png"] = saved(ids.astype(np.uint16) * 1000, "PNG")
    return made


def linked(r: random.Random) -> OddFolder:
    """Links to files and folders; each name is an object, but where a folder leads back into itself."""
    made = plain(r)
    made.what = "links"
    kind = r.choice(["file", "folder", "two names", "loop", "nowhere", "mask folder"])
    made.add(r, "train/images/own.jpg", "train/masks/own.png")
    if kind == "file":
        made.links |= {"train/images/link.jpg": "own.jpg", "train/masks/link.png": "own.png"}
        _same(made, "train/images/link.jpg", "train/images/own.jpg", "train/masks/link.png")
    elif kind == "folder":
        made.links["also"] = "train"
        for key in [key for key in made.targets if key.startswith("train/")]:
            _same(made, key.replace("train/", "also/", 1), key, made.labels[key].replace("train/", "also/", 1))
    elif kind == "two names":
        made.add(r, "val/images/sub/n.jpg", "val/masks/sub/n.png")
        made.links |= {"val/images/also": "sub", "val/masks/also": "sub"}
        _same(made, "val/images/also/n.jpg", "val/images/sub/n.jpg", "val/masks/also/n.png")
    elif kind == "loop":
        made.links |= (
            {"train/images/loop": ".", "train/up": "../.."} if r.random() < 0.5 else {"train/images/self": "self"}
        )
    elif kind == "nowhere":
        made.links["train/images/gone.jpg"] = "nowhere.jpg"
    else:  # masks of one split are used for another one, too
        made.add(r, "extra/images/m.jpg", "extra/masks/m.png")
        made.links["again/masks"] = "../extra/masks"
        made.files["again/images/m.jpg"] = saved(draw_picture(r, *SIZE), "JPEG")
        made.targets["again/images/m.jpg"], made.labels["again/images/m.jpg"] = (
            made.targets["extra/images/m.jpg"],
            "again/masks/m.png",
        )
    made.what = f"links: {kind}"
    return made


def _same(made: OddFolder, name: str, key: str, label: str) -> None:
    made.targets[name], made.labels[name] = made.targets[key], label


def hidden(r: random.Random) -> OddFolder:
    """What file managers, editors and archives leave behind."""
    made = plain(r)
    made.what = "leftovers"
    for key in r.sample(["train/images/.DS_Store", "train/images/._0.jpg", "train/masks/._0.png",
    "__MACOSX/train/images/._0.jpg", "train/images/Thumbs.db",
                         "train/images/.ipynb_checkpoints/0-checkpoint.txt", "README.md", "train/images/notes.txt",
                         "train/masks/desktop.ini", ".git/HEAD"], 4):  # fmt: skip
        made.files[key] = b"left by a program"
    return made


def odd_list(r: random.Random) -> OddFolder:
    """A classes.json that is not quite one: read as it is meant, or refused in one line."""
    made = plain(r)
    rows = [dict(one) for one in CLASSES.rows]
    kind = r.choice(["BOM", "UTF-16", "object", "empty", "no train_id", "text id", "hex color", "float id", "negative",
    "gap", "twice", "huge", "nan", "comma",
                     "not JSON", "extra keys", "null color", "four colors", "nested"])  # fmt: skip
    data: object = rows
    if kind == "object":
        data = {"classes": rows}
    elif kind == "empty":
        data = []
    elif kind == "no train_id":
        del rows[1]["train_id"]
    elif kind == "extra keys":
        rows[0]["comment"] = "x"
    elif kind == "gap":
        rows[2]["train_id"] = 5
    elif kind == "twice":
        rows[2]["id"] = 1
    elif kind == "nested":
        data = [rows]
    else:
        changed = {"text id": ("id", "1"), "hex color": ("color", "#ff0028"), "float id": ("id", 1.5),
        "negative": ("train_id", -1), "huge": ("id", 10**30),
                   "nan": ("id", float("nan")), "null color": ("color", None), "four colors": ("color", [255, 0, 40,
                   255])}.get(kind)  # fmt: skip
        if changed:
            rows[1][changed[0]] = changed[1]
    text = json.dumps(data)
    made.files["classes.json"] = {
        "BOM": b"\xef\xbb\xbf" + text.encode(), "UTF-16": text.encode("utf-16"), "comma": text[:-1].encode() + b",]",
        "not JSON": b"classes: [a]",
    }.get(kind, text.encode())  # fmt: skip
    made.what, made.clear = f"classes.json: {kind}", kind == "extra keys"
    return made


FOLDERS: tuple[Callable[[random.Random], OddFolder], ...] = (
    plain, plain, missing_partners, equal_stems, near_layout, near_layout, panoramas, pairs, cityscapes, linked, linked,
    hidden, odd_list,
)  # fmt: skip
