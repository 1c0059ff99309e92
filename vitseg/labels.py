"""Classes with their ids, train ids and colors.

`CITYSCAPES` is the official table (https://github.com/mcordts/cityscapesScripts, helpers/labels.py). Models learn *train
ids* (0–18 there); 255 marks pixels that no loss or metric counts.

A data set is *binary* if train id 0, the foreground, is the only one listed. Train id 1, the background, is then: every label
listed with train id 255, the id 0 (1 if 0 is the foreground's) and black. The id 255 stays ignored, unless it is the
foreground's, and so does the color of a label listed with id 255; other ids that are not listed make a label unusable. So for masks
of 0 and 255 it is enough to list `[{"name": "crack", "color": [255, 255, 255], "id": 255, "train_id": 0}]`. A model of a
binary data set has one logit a pixel, the foreground's; shards, masks and metrics have two classes like any others.
"""

import functools
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vitseg.class_change import class_key
from vitseg.errors import DataError

IGNORE_INDEX = 255
_KEYS = ("name", "color", "id", "train_id")
_MAX_ID = 2**31


@dataclass(frozen=True)
class Label:
    """One class: its name, color (R, G, B in 0–255), id in label files, and train id."""

    name: str
    color: tuple[int, int, int]
    id: int
    train_id: int = IGNORE_INDEX

    def to_json(self) -> dict[str, Any]:
        """Return a row of `classes`, as manifests and bundles store it."""
        return {**asdict(self), "color": list(self.color)}

    @staticmethod
    def from_json(row: dict[str, Any]) -> "Label":
        """Read one row of `classes` in a manifest, bundle or `classes.json`.

        Raises:
            DataError: a key is missing or a value out of range.
        """
        if lacking := [key for key in _KEYS if not isinstance(row, dict) or key not in row]:
            raise DataError(
                f"class {row!r} lacks {', '.join(lacking)}: it needs name, color [r, g, b], id and train_id"
            )
        try:
            red, green, blue = (_whole(value) for value in row["color"])
            if max(red, green, blue) == 1 and any(isinstance(value, float) for value in row["color"]):
                raise ValueError("colors are 0-255, not 0-1")
            label = Label(str(row["name"]), (red, green, blue), _whole(row["id"]), _whole(row["train_id"]))
        except (TypeError, ValueError, OverflowError) as error:
            found = ", ".join(f"{key} {row[key]!r}" for key in _KEYS[1:])
            raise DataError(
                f"class {row['name']!r}: color is three whole numbers of 0-255, id and train_id are one each; found {found}"
            ) from error
        if not all(0 <= value <= 255 for value in label.color):
            raise DataError(f"class {label.name!r}: color {label.color} is outside 0-255")
        if abs(label.id) > _MAX_ID:
            raise DataError(f"class {label.name!r}: id {label.id} is no id that an image could hold")
        if not 0 <= label.train_id <= IGNORE_INDEX:
            raise DataError(f"class {label.name!r}: train_id {label.train_id} is outside 0-255; 255 = does not count")
        return label


CITYSCAPES = (
    Label("unlabeled", (0, 0, 0), 0),
    Label("ego vehicle", (0, 0, 0), 1),
    Label("rectification border", (0, 0, 0), 2),
    Label("out of roi", (0, 0, 0), 3),
    Label("static", (0, 0, 0), 4),
    Label("dynamic", (111, 74, 0), 5),
    Label("ground", (81, 0, 81), 6),
    Label("road", (128, 64, 128), 7, 0),
    Label("sidewalk", (244, 35, 232), 8, 1),
    Label("parking", (250, 170, 160), 9),
    Label("rail track", (230, 150, 140), 10),
    Label("building", (70, 70, 70), 11, 2),
    Label("wall", (102, 102, 156), 12, 3),
    Label("fence", (190, 153, 153), 13, 4),
    Label("guard rail", (180, 165, 180), 14),
    Label("bridge", (150, 100, 100), 15),
    Label("tunnel", (150, 120, 90), 16),
    Label("pole", (153, 153, 153), 17, 5),
    Label("polegroup", (153, 153, 153), 18),
    Label("traffic light", (250, 170, 30), 19, 6),
    Label("traffic sign", (220, 220, 0), 20, 7),
    Label("vegetation", (107, 142, 35), 21, 8),
    Label("terrain", (152, 251, 152), 22, 9),
    Label("sky", (70, 130, 180), 23, 10),
    Label("person", (220, 20, 60), 24, 11),
    Label("rider", (255, 0, 0), 25, 12),
    Label("car", (0, 0, 142), 26, 13),
    Label("truck", (0, 0, 70), 27, 14),
    Label("bus", (0, 60, 100), 28, 15),
    Label("caravan", (0, 0, 90), 29),
    Label("trailer", (0, 0, 110), 30),
    Label("train", (0, 80, 100), 31, 16),
    Label("motorcycle", (0, 0, 230), 32, 17),
    Label("bicycle", (119, 11, 32), 33, 18),
    Label("license plate", (0, 0, 142), -1),
)


def _whole(value: Any) -> int:
    """Return a whole number, also if it is written as `1.0` or as text; ValueError: it has a fraction."""
    number = int(value)
    if isinstance(value, float) and number != value:
        raise ValueError(f"{value} is no whole number")
    return number


def background_of(foreground: Label) -> Label:
    """Return the background class of a binary data set, with another color and id than the foreground."""
    color = (255, 255, 255) if max(foreground.color) < 128 else (0, 0, 0)
    return Label("background", color, 0 if foreground.id != 0 else 1, 1)


def is_binary(classes: tuple[Label, ...]) -> bool:
    """Return whether classes, in the order of train ids, are a foreground and its background."""
    return len(classes) == 2 and classes[1] == background_of(classes[0])


def logit_count(classes: tuple[Label, ...]) -> int:
    """Return the number of a model's logits a pixel: one for each class, 1 if binary, 0 for image pairs."""
    return 1 if is_binary(classes) else len(classes)


def foreground_class(labels: tuple[Label, ...]) -> Label | None:
    """Return the foreground of a binary data set; None if the data set is not binary."""
    train_ids = {label.train_id for label in labels} - {IGNORE_INDEX}
    return next((label for label in labels if label.train_id == 0), None) if train_ids == {0} else None


def label_train_ids(labels: tuple[Label, ...]) -> tuple[int, ...]:
    """Return the train id of each label; in a binary data set it is 1 for all but the foreground and the id 255."""
    binary = foreground_class(labels) is not None
    return tuple(1 if binary and label.train_id and label.id != IGNORE_INDEX else label.train_id for label in labels)


def train_classes(labels: tuple[Label, ...] = CITYSCAPES) -> tuple[Label, ...]:
    """Return the classes a model learns: the first label of each train id, in order; with one alone, and a background.

    Raises:
        DataError: train ids are not 0 … K-1 (255 aside), or K is over 255.
    """
    by_train_id: dict[int, Label] = {}
    for label in labels:
        if 0 <= label.train_id < IGNORE_INDEX:
            by_train_id.setdefault(label.train_id, label)
    if sorted(by_train_id) != list(range(len(by_train_id))) or not by_train_id:
        raise DataError(f"train ids must be 0, 1, 2 … without gaps; found {sorted(by_train_id)}")
    classes = tuple(by_train_id[train_id] for train_id in range(len(by_train_id)))
    return classes if len(classes) > 1 else (*classes, background_of(classes[0]))


def check_names(labels: tuple[Label, ...]) -> None:
    """Check that no two classes that are learned have one name; labels that don't count may share theirs.

    Raises:
        DataError: two have; no table of results could tell which is which.
    """
    train_ids: dict[str, int] = {}
    for label, train_id in _learned(labels):
        if train_ids.setdefault(class_key(label.name), train_id) != train_id:
            raise DataError(f"two classes have the name {label.name!r}: give each its own")


@functools.lru_cache(maxsize=8)
def shared_colors(labels: tuple[Label, ...]) -> frozenset[tuple[int, int, int]]:
    """Return the colors that two classes have which are learned: labels can't be read by them."""
    train_ids: dict[tuple[int, int, int], int] = {}
    rows = _learned(labels)
    return frozenset(label.color for label, train_id in rows if train_ids.setdefault(label.color, train_id) != train_id)


def _learned(labels: tuple[Label, ...]) -> list[tuple[Label, int]]:
    """Return all labels that count, and the background of a binary data set, with their train ids."""
    foreground = foreground_class(labels)
    rows = [
        *zip(labels, label_train_ids(labels), strict=True),
        *([(background_of(foreground), 1)] if foreground else []),
    ]
    return [(label, train_id) for label, train_id in rows if train_id != IGNORE_INDEX]


def palette(classes: tuple[Label, ...], ids: Iterable[int] | None = None) -> np.ndarray:
    """Return the colors of train ids, or of other `ids` of the classes, uint8 (256, 3); ids without a class are black."""
    colors = np.zeros((256, 3), np.uint8)
    for label, number in zip(classes, ids or [label.train_id for label in classes], strict=True):
        colors[number] = label.color
    return colors
