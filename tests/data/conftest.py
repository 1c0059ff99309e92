"""Tiny sources in each layout, drawn from a seed."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitseg.labels import CITYSCAPES

HEIGHT, WIDTH = 24, 32
BY_ID = {label.id: label for label in CITYSCAPES}


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def draw(seed: int, height: int = HEIGHT, width: int = WIDTH) -> tuple[np.ndarray, np.ndarray]:
    """Return a photo (H, W, 3) and label ids (H, W): sky above, road below, a car between."""
    rng = np.random.default_rng(seed)
    ids = np.full((height, width), 23, np.uint8)
    ids[height // 2 :] = 7
    left = int(rng.integers(0, width // 2))
    ids[height // 3 : 2 * height // 3, left : left + width // 4] = 26
    photo = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return photo, ids


def colors_of(ids: np.ndarray) -> np.ndarray:
    table = np.array([BY_ID[value].color if value in BY_ID else (0, 0, 0) for value in range(256)], np.uint8)
    return table[ids]


@pytest.fixture
def pairs(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a `pairs` source and returns its folder."""

    def write(train: int = 5, val: int = 2, folder: str = "pairs", side: int = 32) -> Path:
        for split, count in (("train", train), ("val", val)):
            for number in range(count):
                photo, ids = draw(number + 100 * (split == "val"), side, side)
                both = np.concatenate([photo, colors_of(ids)], axis=1)
                save(tmp_path / folder / split / f"{number}.jpg", both, quality=95, subsampling=0)
        return tmp_path / folder

    return write


@pytest.fixture
def cityscapes(tmp_path: Path) -> Path:
    """Return a source in the official layout: two cities to train on, one to validate on."""
    root = tmp_path / "cityscapes"
    stems = [("train", "aachen", 0), ("train", "aachen", 1), ("train", "bonn", 2), ("val", "ulm", 3)]
    for split, city, number in stems:
        stem = f"{city}_{number:06d}_000019"
        photo, ids = draw(number)
        save(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", photo)
        save(root / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png", ids)
    return root


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Return a source with its own three classes, masks as ids."""
    root = tmp_path / "folders"
    for number in range(4):
        photo, _ = draw(number)
        ids = np.zeros((HEIGHT, WIDTH), np.uint8)
        ids[: HEIGHT // 2] = 5
        ids[:, : WIDTH // 4] = 9
        save(root / "train" / "images" / f"street {number}.jpg", photo)
        save(root / "train" / "masks" / f"street {number}.png", ids)
    classes = [
        {"name": "void", "color": [0, 0, 0], "id": 0, "train_id": 255},
        {"name": "crack", "color": [200, 30, 30], "id": 5, "train_id": 0},
        {"name": "asphalt", "color": [90, 90, 90], "id": 9, "train_id": 1},
    ]
    (root / "classes.json").write_text(json.dumps(classes))
    return root
