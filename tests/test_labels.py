"""The table of classes, and the ways between ids and colors."""

import dataclasses
import json

import numpy as np
import pytest

from vitseg.data.label_values import read_ids
from vitseg.errors import DataError
from vitseg.labels import (
    CITYSCAPES,
    IGNORE_INDEX,
    Label,
    check_names,
    foreground_class,
    is_binary,
    label_train_ids,
    logit_count,
    palette,
    shared_colors,
    train_classes,
)

NAMES = """road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation, terrain, sky, person, rider,
car, truck, bus, train, motorcycle, bicycle"""
BINARY = (("crack", 5, 0), ("asphalt", 3, 255), ("void", 255, 255))
ROW = {"name": "crack", "color": [200, 30, 30], "id": 5, "train_id": 0}


def test_the_classes_of_cityscapes_are_the_official_19() -> None:
    classes = train_classes()
    assert [label.name for label in classes] == NAMES.replace("\n", " ").split(", ")
    assert [label.train_id for label in classes] == list(range(19))
    assert classes[13].color == (0, 0, 142)


def test_ids_of_cityscapes_are_unique_and_ids_of_labels_become_train_ids() -> None:
    assert [label.id for label in CITYSCAPES] == [*range(34), -1]
    found = read_ids(np.array([7, 26, 33, 0, 9, 34, 255, -1]), CITYSCAPES)
    assert found.train_ids.tolist() == [0, 13, 18, 255, 255, 255, 255, 255]
    assert found.known.tolist() == [True] * 5 + [False, True, True]


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
    with pytest.raises(DataError, match=rf"lacks {key}: it needs name, color \[r, g, b\], id and train_id"):
        Label.from_json({name: value for name, value in ROW.items() if name != key})


@pytest.mark.parametrize(
    "change",
    [
        {"color": [0, 0]},
        {"color": "red"},
        {"color": [0, 0, 256]},
        {"color": [-1, 0, 0]},
        {"color": [1.0, 0, 0]},
        {"color": [0, 1, 0.0]},
        {"id": "five"},
        {"train_id": None},
        {"train_id": 256},
        {"train_id": -1},
    ],
)
def test_a_row_with_a_bad_value_is_refused_by_the_class_s_name(change: dict[str, object]) -> None:
    with pytest.raises(DataError, match=rf"class '{ROW['name']}': .*{next(iter(change))}"):
        Label.from_json({**ROW, **change})


def test_what_is_no_row_is_refused() -> None:
    with pytest.raises(DataError):
        Label.from_json(["crack", [200, 30, 30], 5, 0])  # type: ignore[arg-type]


def test_many_ids_may_share_a_train_id() -> None:
    first, second = Label("car", (1, 2, 3), 4, 0), Label("taxi", (5, 6, 7), 8, 0)
    assert train_classes((first, second))[0] == first
    assert read_ids(np.array([4, 8]), (first, second)).train_ids.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("thing", "other"),
    [
        (Label("crack", (200, 30, 30), 5, 0), Label("background", (0, 0, 0), 0, 1)),
        (Label("sky", (0, 0, 90), 0, 0), Label("background", (255, 255, 255), 1, 1)),
    ],
)
def test_one_train_id_is_a_foreground_and_gets_a_background(thing: Label, other: Label) -> None:
    classes = train_classes((Label("asphalt", (9, 9, 9), 3), thing))
    assert classes == (thing, other)
    assert train_classes(classes) == classes  # what a manifest holds reads back
    assert is_binary(classes)
    assert logit_count(classes) == 1


def test_two_listed_classes_are_not_binary() -> None:
    cat, dog = Label("cat", (200, 0, 0), 1, 0), Label("dog", (0, 200, 0), 2, 1)
    assert train_classes((cat, dog)) == (cat, dog)
    assert logit_count((cat, dog)) == 2
    assert logit_count(train_classes()) == 19
    assert logit_count(()) == 0


def test_in_a_binary_data_set_all_but_the_foreground_and_id_255_is_background() -> None:
    crack, asphalt, void = (Label(name, (9, 9, 9), id_, train) for name, id_, train in BINARY)
    found = read_ids(np.array([0, 3, 5, 77, 255]), (crack, asphalt))
    assert found.train_ids[found.known].tolist() == [1, 1, 0, 255]
    assert found.known.tolist() == [True, True, True, False, True]
    assert label_train_ids((crack, asphalt, void)) == (0, 1, 255)
    white = Label("crack", (255, 255, 255), 255, 0)  # masks of 0 and 255
    assert read_ids(np.array([0, 255]), (white,)).train_ids.tolist() == [1, 0]
    assert foreground_class(train_classes()) is None


def test_two_classes_with_one_name_are_refused_and_with_one_color_known() -> None:
    a, b, void = Label("a", (1, 1, 1), 1, 0), Label("b", (2, 2, 2), 2, 1), Label("a", (1, 1, 1), 3)
    for fine in ((a, b, void), (a, b, dataclasses.replace(void, train_id=0)), CITYSCAPES):
        check_names(fine)  # what does not count may share name and color, and so may labels of one class
        assert not shared_colors(fine)
    with pytest.raises(DataError, match="two classes have the name 'a': give each its own"):
        check_names((a, dataclasses.replace(b, name="a")))
    for other in ("a ", "\u00e9", "e\u0301"):
        twin = {"a ": "a", "\u00e9": "e\u0301", "e\u0301": "\u00e9"}[other]
        with pytest.raises(DataError, match="two classes have the name"):
            check_names((dataclasses.replace(a, name=twin), dataclasses.replace(b, name=other)))
    with pytest.raises(DataError, match="two classes have the name 'background'"):
        check_names((dataclasses.replace(a, name="background"),))
    assert shared_colors((a, dataclasses.replace(b, color=(1, 1, 1)))) == {(1, 1, 1)}
    assert shared_colors((a, void)) == {(1, 1, 1)}  # alone, `a` has the others as its background


@pytest.mark.parametrize("train_ids", [(0, 2), (1, 2), (), (IGNORE_INDEX,)])
def test_train_ids_with_gaps_are_refused(train_ids: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="without gaps"):
        train_classes(tuple(Label(f"c{i}", (0, 0, 0), i, train_id) for i, train_id in enumerate(train_ids)))


@pytest.mark.parametrize("number", [1.5, 10**30, float("inf"), float("nan"), "x", None])
def test_an_id_that_no_image_could_hold_is_refused(number):
    with pytest.raises(DataError, match="class "):
        Label.from_json({"name": "a", "color": [0, 0, 0], "id": number, "train_id": 0})
    assert Label.from_json({"name": "a", "color": [0, 0, 0], "id": 1.0, "train_id": "0"}).id == 1
