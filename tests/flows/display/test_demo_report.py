"""What the demo's report collects: masks, pictures of photographs, and scores of classes."""

from pathlib import Path

import numpy as np
from PIL import Image

from flows.display import demo_report
from vitseg.data.manifest import Manifest, ShardInfo, Split
from vitseg.labels import train_classes


def save(file: Path, color: tuple[int, int, int]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (100, 50), color).save(file)


def test_all_masks_are_copied_but_not_the_ledger(tmp_path: Path) -> None:
    for name in ("b/2.jpg.png", "a/1.jpg.png", "_vitseg/job/sheet.png"):
        save(tmp_path / "masks" / name, (0, 0, 142))
    keys = demo_report._copy_masks(str(tmp_path / "masks"), tmp_path / "copies")
    assert keys == ["a/1.jpg.png", "b/2.jpg.png"]
    assert sorted(path.name for path in (tmp_path / "copies").rglob("*.png")) == ["1.jpg.png", "2.jpg.png"]


def test_a_photograph_is_shown_with_its_mask_and_both_together(tmp_path: Path) -> None:
    save(tmp_path / "photographs" / "a" / "1.png", (200, 0, 0))
    save(tmp_path / "masks" / "a" / "1.png.png", (0, 0, 100))
    addresses = {name: str(tmp_path / name) for name in ("photographs", "masks")}
    row = demo_report._segmented_row(addresses, "a/1.png.png")
    assert row.title == "a/1.png"
    colors = {picture.title: picture.image.getpixel((0, 0)) for picture in row.pictures}
    assert colors == {"photo": (200, 0, 0), "mask": (0, 0, 100), "overlay": (100, 0, 50)}
    assert {picture.image.size for picture in row.pictures} == {(512, 256)}


def test_ground_truth_and_prediction_are_shown_in_the_colors_of_their_classes() -> None:
    colors = np.array([[1, 1, 1], [2, 2, 2]], np.uint8)
    photo, target, prediction = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8), np.ones((4, 4), np.uint8)
    row = demo_report._validation_row("key", (photo, target, prediction), colors)
    assert [(picture.title, picture.image.getpixel((0, 0))[0]) for picture in row.pictures] == [
        ("photo", 0), ("ground truth", 1), ("prediction", 2),
    ]  # fmt: skip


def test_classes_without_pixels_have_no_score() -> None:
    classes = train_classes()[:3]
    split = Split(6, (75, 25, 0), (ShardInfo("val.tar", "0" * 64, 1, 6),))
    manifest = Manifest(fingerprint="f" * 64, created="", image_size=(16, 24), classes=classes, splits={"val": split})
    ious = {classes[0].name: 0.9, classes[1].name: 0.0, classes[2].name: None}
    scores = demo_report._class_scores(manifest, ious)
    assert [(score.label, score.iou, score.share) for score in scores] == [
        (classes[0], 0.9, 0.75), (classes[1], 0.0, 0.25),
    ]  # fmt: skip


def test_without_a_contact_sheet_there_is_no_row_of_it(tmp_path: Path) -> None:
    assert demo_report._least_confident(None) == []
    save(tmp_path / "sheet.png", (1, 2, 3))
    (row,) = demo_report._least_confident(f"{tmp_path}/sheet.png")
    assert row.pictures[0].image.size == (100, 50)
