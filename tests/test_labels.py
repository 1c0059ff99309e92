"""The table of classes, and the ways between ids and colours."""

import json

import numpy as np
import pytest

from vitseg.errors import DataError
from vitseg.labels import CITYSCAPES, IGNORE_INDEX, Label, id_table, palette, train_classes

NAMES = """road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation, terrain, sky, person, rider,
car, truck, bus, train, motorcycle, bicycle"""
ROW = {"name": "crack", "color": [200, 30, 30], "id": 5, "train_id": 0}


def test_the_classes_of_cityscapes_are_the_official_19() -> None:
    classes = train_classes()
    assert [label.name for label in classes] == NAMES.replace("\n", " ").split(", ")
    assert [label.train_id for label in classes] == list(range(19))
    assert classes[13].color == (0, 0, 142)


def test_ids_of_cityscapes_are_unique_and_ids_of_labels_become_train_ids() -> None:
    assert [label.id for label in CITYSCAPES] == [*range(34), -1]
    table = id_table(CITYSCAPES)
    assert table.dtype == np.uint8
    assert table[[7, 26, 33, 0, 9, 34, 255]].tolist() == [0, 13, 18, 255, 255, 255, 255]


def test_palette_is_black_where_no_class_is() -> None:
    colors = palette(train_classes())
    assert colors.shape == (256, 3)
    assert colors.dtype == np.uint8
    assert colors[0].tolist() == [128, 64, 128]
    assert not colors[19:].any()


def test_labels_survive_json() -> None:
    for label in CITYSCAPES:
        assert Label.from_json(json.loads(json.dumps(label.to_json()))) == label


@pytest.mark.parametrize("key", ["name", "color", "id", "train_id"])
def test_a_row_without_a_key_is_refused(key: str) -> None:
    with pytest.raises(DataError, match=r"needs name, color \[r, g, b\], id and train_id"):
        Label.from_json({name: value for name, value in ROW.items() if name != key})


@pytest.mark.parametrize(
    "change",
    [
        {"color": [0, 0]},
        {"color": "red"},
        {"color": [0, 0, 256]},
        {"color": [-1, 0, 0]},
        {"id": "five"},
        {"train_id": None},
        {"train_id": 256},
        {"train_id": -1},
    ],
)
def test_a_row_with_a_bad_value_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(DataError):
        Label.from_json({**ROW, **change})


def test_what_is_no_row_is_refused() -> None:
    with pytest.raises(DataError):
        Label.from_json(["crack", [200, 30, 30], 5, 0])  # type: ignore[arg-type]


def test_many_ids_may_share_a_train_id() -> None:
    first, second = Label("car", (1, 2, 3), 4, 0), Label("taxi", (5, 6, 7), 8, 0)
    assert train_classes((first, second)) == (first,)
    assert id_table((first, second))[[4, 8]].tolist() == [0, 0]


@pytest.mark.parametrize("train_ids", [(0, 2), (1, 2), (), (IGNORE_INDEX,)])
def test_train_ids_with_gaps_are_refused(train_ids: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="without gaps"):
        train_classes(tuple(Label(f"c{i}", (0, 0, 0), i, train_id) for i, train_id in enumerate(train_ids)))
