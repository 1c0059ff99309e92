import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitseg.errors import UsageError
from vitseg.labels import CITYSCAPES
from vitseg.synth.dataset import write_photographs, write_scenes

SIZE = (64, 32)


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


def test_photographs_have_several_sizes_and_formats_and_depend_on_the_seed(tmp_path: Path) -> None:
    for name, count, seed in (("a", 3, 1), ("b", 1, 1), ("c", 1, 2)):
        assert write_photographs(str(tmp_path / name), count=count, seed=seed) == count
    several, same, other = (sorted((tmp_path / name).rglob("*.*")) for name in "abc")
    images = [Image.open(path) for path in several]
    assert len({image.size for image in images}) == len({image.format for image in images}) == 3
    assert several[0].read_bytes() == same[0].read_bytes() != other[0].read_bytes()
