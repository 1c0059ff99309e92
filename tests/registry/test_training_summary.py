"""The page of a version: what a reviewer reads, and the pictures it links to."""

import dataclasses
from pathlib import Path

import pytest
import torch

from tests.registry.conftest import evaluated, write_bundle
from tests.training.conftest import small_recipe
from vitseg.data.loader import Batch
from vitseg.data.manifest import Manifest, ShardInfo, Split
from vitseg.model.bundle import Bundle, load_bundle, save_bundle
from vitseg.model.segmenter import build_model
from vitseg.registry.training_summary import PAGE_WIDTH, draw_training, training_summary


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return load_bundle(write_bundle(tmp_path / "bundle"))


MATRIX = torch.tensor([[6, 2, 0, 0], [2, 10, 0, 0], [0, 0, 0, 0], [0, 0, 1, 3]])
"""IoU 6/10, 10/14, 0/1, 3/4; 19 of 24 pixels right."""
EVALUATION = dataclasses.replace(
    evaluated(MATRIX[None], samples=6),
    seams={8: torch.tensor([[[100, 100], [100, 142]], [[100, 100], [0, 0]]])},
    target_seams={8: torch.tensor([[[100, 100], [100, 100]], [[100, 100], [100, 98]]])},
)


def test_the_page_holds_metrics_classes_and_links_to_pictures_that_are_drawn(bundle: Bundle) -> None:
    info = ShardInfo("train.tar", "0" * 64, 1, 40)
    splits = {"train": Split(40, (0,) * 4, (info,)), "val": Split(6, (0,) * 4, (info,))}
    manifest = Manifest(
        fingerprint="ab" * 32, created="now", image_size=bundle.image_size, classes=bundle.classes, splits=splits
    )
    page = training_summary("f00d", EVALUATION, bundle, manifest, small_recipe(), 3, "d1ce57")
    assert "mIoU 0.516" in page
    assert "pixel accuracy 0.792" in page
    assert "Seam ratio, 8-pixel patches: rows 1.42, columns – (labels 1.00, 0.98)." in page
    assert "6 validation images, after 3 epochs" in page
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert rows == ["| class | IoU |", "| road | 0.600 |", "| sidewalk | 0.714 |", "| building | 0.000 |",
                    "| wall | 0.750 |"]  # fmt: skip
    assert "40 train, 6 val images of 24×16" in page
    assert "ab" * 8 in page
    assert bundle.sha256[:16] in page
    shown = Batch(
        torch.zeros(2, 3, *bundle.image_size, dtype=torch.uint8),
        torch.zeros(2, *bundle.image_size, dtype=torch.uint8),
        ["one", "two"],
    )
    history = [{"epoch": 1, "step": 3, "train/loss": 1.0, "train/pixel_accuracy": 0.5}]
    pictures = draw_training(bundle, shown, EVALUATION, history)
    assert {picture.width <= PAGE_WIDTH for picture in pictures.values()} == {True}  # what is wider is cut off there
    assert all(min(picture.size) > 50 for picture in pictures.values())
    linked = {part.partition(")")[0] for part in page.split("get-artifact?run_uuid=f00d&path=pictures/")[1:]}
    assert {"validation.png", "curves.png", "confusion.png"} <= linked <= {f"{name}.png" for name in pictures}


def test_a_class_that_is_nowhere_has_a_row_too(bundle: Bundle) -> None:
    matrix = MATRIX.clone()
    matrix[3, 2] = 0
    manifest = Manifest(fingerprint="f" * 64, created="", image_size=(16, 24), classes=bundle.classes, splits={})
    page = training_summary("f00d", evaluated(matrix[None]), bundle, manifest, small_recipe(), 1, "d1ce57")
    assert "| building | – |" in page


def test_a_version_without_classes_has_psnr_and_panels_of_images(tmp_path: Path) -> None:
    model = build_model(small_recipe("model.target=rgb").model, (16, 24), 0, seed=0)
    save_bundle(tmp_path / "images", model, ())
    images = load_bundle(tmp_path / "images")
    assert images.classes == ()
    manifest = Manifest(fingerprint="f" * 64, created="", image_size=(16, 24), classes=(), splits={})
    evaluation = dataclasses.replace(evaluated(None, psnr=23.456, samples=2), mean_absolute_error=0.0321)
    page = training_summary("f00d", evaluation, images, manifest, small_recipe("model.target=rgb"), 3, "d1ce57")
    assert "**PSNR 23.46 dB**, mean absolute error 0.0321 on 2 validation images" in page
    assert "class" not in page
    photos = torch.zeros(2, 3, 16, 24, dtype=torch.uint8)
    pictures = draw_training(images, Batch(photos, photos, ["one", "two"]), evaluation, [])
    linked = {part.partition(")")[0] for part in page.split("get-artifact?run_uuid=f00d&path=pictures/")[1:]}
    assert linked == {f"{name}.png" for name in pictures} == {"validation.png", "curves.png"}
