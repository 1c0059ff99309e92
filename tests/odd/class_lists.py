"""Odd lists of classes, and pictures of labels: the truth that masks are made of."""

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vitseg.labels import CITYSCAPES

IGNORED = 255
"""The train id of pixels that don't count."""


@dataclass(frozen=True)
class ClassList:
    """Rows of a `classes.json`, and what they mean: train ids by row, as of a binary data set's background."""

    what: str
    rows: tuple[dict[str, Any], ...]
    binary: bool = False
    clear: bool = True
    """Whether these rows say what they mean: else they may be refused."""
    colors_clear: bool = True
    """Whether colors alone tell the classes apart."""
    paintable: tuple[int, ...] = field(default=())
    """Rows that occur in pictures; -1 is the background that a binary list leaves out."""

    def color(self, row: int) -> tuple[int, int, int]:
        return tuple(self.rows[row]["color"]) if row >= 0 else (0, 0, 0)

    def id(self, row: int) -> int:
        return int(self.rows[row]["id"]) if row >= 0 else 0

    def train_id(self, row: int) -> int:
        """Return what a model learns of a row's pixels."""
        if row < 0:
            return 1
        own = int(self.rows[row]["train_id"])
        return 1 if self.binary and own and self.id(row) != IGNORED else own


def distinct_colors(r: random.Random, count: int) -> list[tuple[int, int, int]]:
    """Return colors that differ from each other, from each other's BGR, from gray and from black, by 40 in some channel."""
    found: list[tuple[int, int, int]] = []
    while len(found) < count:
        color = (r.randrange(256), r.randrange(256), r.randrange(256))
        near = [(0, 0, 0), (255, 255, 255), (color[0],) * 3, color[::-1] if len(found) % 2 else (0, 0, 0), *found]
        near += [other[::-1] for other in found]
        if all(max(abs(a - b) for a, b in zip(color, other, strict=True)) >= 40 for other in near):
            found.append(color)
    return found


def row(name: str, color: tuple[int, int, int], number: int, train_id: int) -> dict[str, Any]:
    return {"name": name, "color": list(color), "id": number, "train_id": train_id}


def draw_classes(r: random.Random) -> ClassList:
    """Draw a list of classes."""
    kind = r.choice(["binary", "binary", "two", "few", "few", "few", "gaps", "from one", "void 255", "many", "cityscapes",
                     "one color twice", "one color ignored", "one name twice", "large ids", "train ids differ"])  # fmt: skip
    if kind == "binary":
        color = r.choice([(255, 255, 255), *distinct_colors(r, 1)])
        number = r.choice([1, 255, 7])
        return ClassList(f"binary id {number}", (row("crack", color, number, 0),), binary=True, paintable=(-1, 0))
    if kind == "cityscapes":
        rows = tuple(label.to_json() for label in CITYSCAPES if label.id >= 0)
        wanted = tuple(
            place for place, label in enumerate(rows) if label["train_id"] != IGNORED and label["name"] != "pole"
        )
        return ClassList(kind, rows, paintable=tuple(r.sample(wanted, 5)))
    count = {"two": 2, "many": 25}.get(kind, r.randrange(3, 7))
    colors = distinct_colors(r, count)
    if r.random() < 0.5:
        colors[0] = (0, 0, 0)
    numbers = list(range(count))
    if kind == "two":
        numbers = [0, r.choice([1, 255 - 1, 5])]
    elif kind == "from one":
        numbers = list(range(1, count + 1))
    elif kind in ("gaps", "train ids differ", "many"):
        numbers = sorted(r.sample(range(250), count))
    elif kind == "large ids":
        numbers = sorted(r.sample(range(256, 2000), count))
    train_ids = list(range(count))
    if kind == "train ids differ":
        r.shuffle(train_ids)
    rows = [row(f"class {place}", *values) for place, values in enumerate(zip(colors, numbers, train_ids, strict=True))]
    clear = colors_clear = True
    if kind == "void 255":
        rows.append(row("void", (1, 2, 3) if colors[0] != (1, 2, 3) else (3, 2, 1), 255, IGNORED))
    elif kind == "one color twice":
        rows[-1]["color"], colors_clear = rows[-2]["color"], False
    elif kind == "one color ignored":
        number = next(n for n in range(30) if n not in numbers)
        rows.append(row("also nothing", (9, 60, 9), number, IGNORED))
        rows.append(row("nothing", (9, 60, 9), number + 100, IGNORED))
    elif kind == "one name twice":
        rows[-1]["name"], clear = rows[-2]["name"], False
    if r.random() < 0.3 and kind != "two":
        r.shuffle(rows)
    return ClassList(kind, tuple(rows), clear=clear, colors_clear=colors_clear, paintable=tuple(range(len(rows))))


def draw_labels(r: random.Random, classes: ClassList, height: int, width: int) -> np.ndarray:
    """Draw a picture of rows, int (H, W): large and small blocks in which all paintable rows occur if there is room."""
    rng = np.random.default_rng(r.getrandbits(32))
    cells = rng.permutation(np.resize(np.array(classes.paintable), 30)).reshape(5, 6)
    rows = np.arange(height) * 5 // height
    columns = np.arange(width) * 6 // width
    return cells[rows][:, columns]


def target_of(picture: np.ndarray, classes: ClassList) -> np.ndarray:
    """Return the train ids, uint8 (H, W), of a picture of rows."""
    made = np.zeros(picture.shape, np.uint8)
    for place in np.unique(picture):
        made[picture == place] = classes.train_id(int(place))
    return made
