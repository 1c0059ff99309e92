import io
from collections import Counter
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vitseg.errors import UsageError
from vitseg.labels import CITYSCAPES
from vitseg.synth.dataset import draw_scene, write_scenes

SIZE = (64, 32)
NAMES = {label.id: label.name for label in CITYSCAPES}


@lru_cache
def scenes(count: int = 24, size: tuple[int, int] = (256, 128)) -> list[tuple[np.ndarray, np.ndarray]]:
    return [draw_scene((5, index), size) for index in range(count)]


def shares(ids: np.ndarray) -> dict[str, float]:
    return {NAMES[int(value)]: float((ids == value).mean()) for value in np.unique(ids)}


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")}


def write(folder: Path, train: int = 5, val: int = 3, size: tuple[int, int] = SIZE, seed: int = 1) -> dict[str, bytes]:
    assert write_scenes(str(folder), train=train, val=val, size=size, seed=seed) == train + val
    return files(folder)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_layout_is_the_official_one_and_pairs_up(tmp_path: Path) -> None:
    written = write(tmp_path)
    photos = [key for key in written if key.startswith("leftImg8bit/")]
    assert len(photos) == 8
    assert len(written) == 24
    for key in photos:
        _, split, city, name = key.split("/")
        assert split in ("train", "val")
        start, sequence, frame, kind = name.split("_")
        assert start == city
        assert (len(sequence), len(frame), kind) == (6, 6, "leftImg8bit.png")
        assert (sequence + frame).isdigit()
        for label in ("labelIds", "color"):
            assert f"gtFine/{split}/{city}/{city}_{sequence}_{frame}_gtFine_{label}.png" in written
    cities = {split: {key.split("/")[2] for key in photos if key.split("/")[1] == split} for split in ("train", "val")}
    assert min(len(names) for names in cities.values()) > 1
    assert not cities["train"] & cities["val"]


def test_files_hold_rgb_photos_official_ids_and_their_official_colors(tmp_path: Path) -> None:
    written = write(tmp_path)
    official = {label.id: label.color for label in CITYSCAPES}
    for key, data in written.items():
        if not key.startswith("leftImg8bit/"):
            continue
        assert pixels(data).shape == (SIZE[1], SIZE[0], 3)
        stem = key.replace("leftImg8bit/", "gtFine/", 1).removesuffix("_leftImg8bit.png")
        ids, colors = pixels(written[f"{stem}_gtFine_labelIds.png"]), pixels(written[f"{stem}_gtFine_color.png"])
        assert ids.shape == (SIZE[1], SIZE[0])
        assert colors.shape == (SIZE[1], SIZE[0], 3)
        for value in np.unique(ids):
            assert (colors[ids == value] == official[int(value)]).all()


def test_equal_arguments_give_equal_bytes_and_a_scene_knows_only_its_own_number(tmp_path: Path) -> None:
    few, again, more = (
        write(tmp_path / name, *counts) for name, counts in (("a", (2, 1)), ("b", (2, 1)), ("c", (6, 2)))
    )
    assert few == again
    assert few.items() <= more.items()
    assert len(set(more.values())) == len(more), "two scenes are the same"


def test_another_seed_gives_other_scenes_under_the_same_names(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a", 2, 1, seed=1), write(tmp_path / "b", 2, 1, seed=2)
    assert one.keys() == two.keys()
    assert not set(one.values()) & set(two.values())


def test_draw_scene_takes_a_seed_or_a_generator() -> None:
    from_seed, from_generator = draw_scene(3, SIZE), draw_scene(np.random.default_rng(3), SIZE)
    assert all(np.array_equal(one, two) for one, two in zip(from_seed, from_generator, strict=True))


@settings(max_examples=12, deadline=None)
@given(st.integers(32, 150), st.integers(16, 150), st.integers(0, 2**32))
def test_any_size_is_honored(width: int, height: int, seed: int) -> None:
    photo, ids = draw_scene(seed, (width, height))
    assert (photo.shape, photo.dtype) == ((height, width, 3), np.uint8)
    assert (ids.shape, ids.dtype) == ((height, width), np.uint8)
    assert {"road", "sky"} <= {NAMES[int(value)] for value in np.unique(ids)} or height < 32


def test_a_big_scene_is_the_small_one_with_more_pixels() -> None:
    _, small = draw_scene(4, (128, 64))
    photo, big = draw_scene(4, (1280, 640))
    assert photo.shape == (640, 1280, 3)
    assert abs(shares(small)["road"] - shares(big)["road"]) < 0.1
    assert abs(shares(small)["sky"] - shares(big)["sky"]) < 0.1


def test_streets_hold_what_streets_hold() -> None:
    found = [shares(ids) for _, ids in scenes()]
    for one in found:
        assert one["road"] > 0.08
        assert one["sky"] > 0.005
    seen = Counter(name for one in found for name, share in one.items() if share > 0.001)
    for name in ("building", "vegetation", "sidewalk", "pole", "person", "car"):
        assert seen[name] >= 0.8 * len(found), name
    assert len(seen) == 8


def test_no_class_is_rare_and_none_fills_the_picture() -> None:
    whole = shares(np.stack([ids for _, ids in scenes()]))
    assert min(whole.values()) > 0.015, whole
    assert max(whole.values()) < 0.45, whole


def test_poles_are_thick_enough_to_learn() -> None:
    pole = next(label.id for label in CITYSCAPES if label.name == "pole")
    runs = []
    for _, ids in scenes():
        for row in (ids == pole)[40:60]:
            edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
            runs.extend(edges[1::2] - edges[::2])
    assert np.quantile(runs, 0.1) >= 4


def test_things_stand_on_the_ground_and_the_sky_is_above() -> None:
    heights = {}
    for name in ("sky", "building", "car", "road"):
        value = next(label.id for label in CITYSCAPES if label.name == name)
        heights[name] = np.mean([np.nonzero(ids == value)[0].mean() for _, ids in scenes() if (ids == value).any()])
    assert heights["sky"] < heights["building"] < heights["car"] < heights["road"]


def test_borders_of_labels_lie_on_edges_of_the_photo() -> None:
    """The photo changes across a border of labels far more than across a line some pixels beside it."""
    on_border, beside = [], []
    for photo, ids in scenes():
        step = np.abs(np.diff(photo.astype(int), axis=1)).sum(-1)
        border = np.diff(ids.astype(int), axis=1) != 0
        on_border.append(step[border].mean())
        for shift in (-4, 4):
            beside.append(step[np.roll(border, shift, 1) & ~border].mean())
    assert np.mean(on_border) > 1.6 * np.mean(beside)


def test_progress_counts_to_the_end(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    write_scenes(
        str(tmp_path), train=2, val=1, size=SIZE, seed=0, progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    "wrong",
    [{"train": -1}, {"train": 0, "val": 0}, {"seed": -1}, {"size": (8, 8)}, {"size": (100_000, 64)}],
    ids=str,
)
def test_numbers_out_of_range_are_refused_before_anything_is_written(tmp_path: Path, wrong: dict) -> None:
    arguments = {"train": 1, "val": 1, "size": SIZE, "seed": 0} | wrong
    with pytest.raises(UsageError):
        write_scenes(str(tmp_path / "new"), **arguments)
    assert not (tmp_path / "new").exists()
