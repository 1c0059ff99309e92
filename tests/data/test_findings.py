from dataclasses import asdict

import numpy as np
from PIL import Image

from tests.data.generated_shards import prepare, write_folders
from vitseg.data.findings import Findings, Remark, label_warnings, merge
from vitseg.data.manifest import read_manifest
from vitseg.data.verify import verify
from vitseg.labels import Label, train_classes

CLASSES = [
    {"name": "ground", "color": [0, 0, 0], "id": 0, "train_id": 0},
    {"name": "a", "color": [255, 0, 0], "id": 1, "train_id": 1},
    {"name": "b", "color": [0, 255, 0], "id": 2, "train_id": 2},
]
IDS = np.repeat(np.array([0, 1, 1, 2, 2, 2, 2, 0], np.uint8)[None], 8, 0)
COLORS = np.array([row["color"] for row in CLASSES], np.uint8)[IDS]


def test_findings_add_up():
    ones = [
        Findings(3, {"x": 2, "y": 1}, (Remark("odd", 1, "1.png"),)),
        Findings(9, {"y": 9}, (Remark("odd", 1, "2.png"), Remark("rare", 1, "2.png"))),
    ]
    total = merge(ones)
    assert total == Findings(12, {"y": 10, "x": 2}, (Remark("odd", 2, "1.png"), Remark("rare", 1, "2.png")))
    assert merge(ones, 1) == Findings(12, {"y": 10}, (Remark("odd", 2, "1.png"),))
    assert merge([]) == Findings()
    assert Findings.from_json(asdict(total)) == total


def test_foreign_colors_are_counted_and_told_by_the_manifest(tmp_path):
    wrong = COLORS.copy()
    wrong[IDS == 2] = 0, 254, 0
    _, manifest = prepare(write_folders(tmp_path / "in", [COLORS, wrong], CLASSES), tmp_path / "out", size=(8, 8))
    split = manifest.splits["train"]
    assert split.pixels_per_class == (32, 32, 32)
    assert (split.unknown_pixels, split.unknown) == (32, {"color (0, 254, 0)": 32})
    (line,) = manifest.warnings
    assert line == (
        "1 label, for example of train/images/1.png: it has areas of a color that is no class's, which are ignored; "
        "'b' has (0, 255, 0)"
    )
    assert read_manifest(str(tmp_path / "out")) == manifest
    assert verify(str(tmp_path / "out")).warnings == manifest.warnings


def test_a_class_without_a_pixel_in_train_is_a_warning(tmp_path):
    source = write_folders(tmp_path / "in", [np.minimum(IDS, 1)], CLASSES)
    for part, pixels in (("images", np.zeros((8, 8, 3), np.uint8)), ("masks", IDS)):
        (source / "val" / part).mkdir(parents=True)
        Image.fromarray(pixels).save(source / "val" / part / "9.png")
    _, manifest = prepare(source, tmp_path / "out", size=(8, 8))
    assert manifest.splits["val"].pixels_per_class[2]
    assert manifest.warnings == ("no label in train has a pixel of b: such a class can't be learned",)


def test_a_data_set_without_doubts_says_nothing(tmp_path):
    _, manifest = prepare(write_folders(tmp_path / "in", [IDS, COLORS], CLASSES), tmp_path / "out", size=(8, 8))
    assert manifest.warnings == ()
    written = manifest.to_json()
    assert "warnings" not in written
    assert set(written["splits"]["train"]) == {"samples", "pixels_per_class", "shards"}


def test_train_ids_in_place_of_label_ids_are_told(cityscapes, tmp_path):
    _, right = prepare(cityscapes, tmp_path / "right")
    assert not any("train ids" in line for line in right.warnings)
    for path in (cityscapes / "gtFine").rglob("*.png"):
        ids = np.asarray(Image.open(path))
        Image.fromarray(np.select([ids == 7, ids == 23, ids == 26], [8, 10, 13], 0).astype(np.uint8)).save(path)
    _, wrong = prepare(cityscapes, tmp_path / "wrong")
    assert any("no label has an id over 18" in line and "train ids" in line for line in wrong.warnings)


def test_ids_that_are_train_ids_as_well_are_no_sign_of_a_mistake():
    labels = tuple(Label(str(n), (n, n, n), n, n) for n in range(3))
    assert label_warnings(train_classes(labels), {"train": (4, 4, 1)}, Findings()) == ()
    two_beyond = tuple(Label(str(n), (n, n, n), n, at) for at, n in enumerate((0, 1, 100, 101)))
    (line,) = label_warnings(train_classes(two_beyond), {"train": (4, 4, 0, 0)}, Findings())
    assert "can't be learned" in line
    one_beyond = (*labels[:2], Label("c", (9, 9, 9), 7, 2))
    (line,) = label_warnings(train_classes(one_beyond), {"train": (4, 4, 0)}, Findings())
    assert "can't be learned" in line


def test_classes_with_one_color_are_told():
    labels = (Label("a", (1, 1, 1), 0, 0), Label("b", (1, 1, 1), 1, 1))
    (line,) = label_warnings(train_classes(labels), {"train": (4, 4)}, Findings())
    assert "two classes have the color (1, 1, 1)" in line


def test_a_warning_is_one_short_line_whatever_names_hold():
    found = Findings(remarks=(Remark("odd", 3, "a\nb" + " c" * 999),))
    labels = tuple(Label(f"class\n{n}", (n, n, n), n, n) for n in range(99))
    for line in label_warnings(train_classes(labels), {"train": (1,) + (0,) * 98}, found):
        assert "\n" not in line
        assert len(line) <= 300


def test_a_line_about_many_classes_keeps_its_sense():
    labels = tuple(Label(f"class number {n}", (n, n, n), n, n) for n in range(64))
    (line,) = label_warnings(train_classes(labels), {"train": (1,) + (0,) * 63}, Findings())
    assert line.endswith("class number 4, class number 5 and 58 more: such a class can't be learned")
