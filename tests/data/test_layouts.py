import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.conftest import save
from vitseg.data import layouts
from vitseg.data.layouts import detect_layout, what_it_lacks
from vitseg.data.plan import make_plan
from vitseg.errors import NotFoundError, StorageError, UsageError, VitsegError
from vitseg.storage import LocalStore, ObjectInfo, open_store


def test_layouts_are_told_apart(pairs, cityscapes, folders):
    assert detect_layout(open_store(pairs())) == "pairs"
    assert detect_layout(open_store(cityscapes)) == "cityscapes"
    assert detect_layout(open_store(folders)) == "folders"


def test_a_strange_folder_is_told_what_was_looked_for_and_found(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UsageError, match=r"notes\.txt.*leftImg8bit.*classes\.json"):
        detect_layout(open_store(tmp_path))


def test_nothing_there_is_said(tmp_path):
    with pytest.raises(NotFoundError, match="does not exist"):
        detect_layout(open_store(tmp_path / "missing"))


def test_photographs_alone_have_no_layout(tmp_path):
    (tmp_path / "train/images").mkdir(parents=True)
    (tmp_path / "train/images/a.jpg").write_bytes(b"x")
    with pytest.raises(UsageError, match="SPLIT/targets"):
        detect_layout(open_store(tmp_path))


def write(root: Path, *names: str) -> Path:
    """Write images at these places: noise, 16 pixels high and 32 wide."""
    for number, name in enumerate(names):
        save(root / name, np.random.default_rng(number).integers(0, 256, (16, 32, 3), dtype=np.uint8))
    return root


def test_images_of_the_shape_of_pairs_are_no_pairs(tmp_path):
    write(tmp_path, *(f"{split}/{number}.png" for split in ("train", "val") for number in range(3)))
    with pytest.raises(
        UsageError,
        match=r"its images are no pairs of photograph and label \(train/0.png: no pair: only 0% .*vitseg pretrain",
    ):
        detect_layout(open_store(tmp_path))


def test_one_pair_among_panoramas_is_enough(pairs):
    folder = pairs(train=1, val=0)
    write(folder, "train/-.png", "alps/1.png")
    assert detect_layout(open_store(folder)) == "pairs"


def test_what_is_too_large_or_unreadable_is_opened_for_no_pair(pairs, monkeypatch):
    folder = pairs(train=1, val=0)
    (folder / "train/-.jpg").write_bytes(b"x" * 20_000)
    (folder / "train/--.jpg").write_bytes(b"x")
    monkeypatch.setattr(layouts, "MAX_SOURCE_BYTES", 19_999)
    read = LocalStore.read

    def fail(store, key):
        if key == "train/--.jpg":
            raise StorageError("its disk fails")
        assert key != "train/-.jpg"
        return read(store, key)

    monkeypatch.setattr(LocalStore, "read", fail)
    assert detect_layout(open_store(folder)) == "pairs"


def test_not_every_folder_is_searched_for_targets(tmp_path, monkeypatch):
    write(tmp_path, *(f"{number}/images/0.png" for number in range(40)))
    listed, plain = [], LocalStore.list
    monkeypatch.setattr(LocalStore, "list", lambda store, prefix="": listed.append(prefix) or plain(store, prefix))
    with pytest.raises(UsageError):
        detect_layout(open_store(tmp_path))
    assert sum(prefix.endswith("/targets/") for prefix in listed) == 32


CLASSES_MISSING = "list the classes there with name, color, id and train_id"


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["images/0.png", "masks/0.png"], "move them to train/images/ and train/masks/, and a part of both to val/"),
        (
            ["train/img/0.png", "train/labels/0.png"],
            "train/img/ and train/labels/ .*: move them to train/images/ and train/masks/",
        ),
        (["val/images/0.png", "val/annotations/0.png"], "move them to val/images/ and val/masks/"),
        (["images/train/0.png", "masks/train/0.png"], "images/train/ and masks/train/ .*: move them to train/images/"),
        (["train/JPEGImages/0.png", "train/SegmentationClass/0.png"], "move them to train/images/ and train/masks/"),
        (
            ["train/images/0.png", "train/masks/0.png"],
            "look like photographs and their masks; .*classes.json is missing",
        ),
        (
            ["train_images/0.png", "train_masks/0.png"],
            "train_images/ and train_masks/ .*: move them to train/images/ and train/masks/",
        ),
        (["img_dir/val/0.png", "ann_dir/val/0.png"], "move them to val/images/ and val/masks/"),
        (["road-test/images/0.png", "road-test/gt/0.png"], "move them to train/images/ and train/masks/, and a part"),
        (
            ["data/train/images/0.png", "data/train/masks/0.png"],
            "give .*/data as the source; .*data/classes.json is missing",
        ),
        (["train/0.png", "train/0_mask.png"], "train/0.png and train/0_mask.png look like a photograph and its mask"),
        (["0.jpg", "0.png"], "0.jpg and 0.png look like a photograph and its mask: move such files to train/images/"),
    ],
)
def test_what_is_nearly_folders_is_told_what_it_lacks(tmp_path, names, wanted):
    store = open_store(write(tmp_path, *names))
    with pytest.raises(UsageError, match=wanted) as error:
        detect_layout(store)
    assert CLASSES_MISSING in str(error.value)
    (tmp_path / "classes.json").write_text("[]")
    assert detect_layout(store) == "folders"
    assert CLASSES_MISSING not in what_it_lacks(store)


def test_classes_that_lie_elsewhere_are_asked_for(tmp_path):
    store = open_store(write(tmp_path, "train/images/0.png", "train/masks/0.png"))
    (tmp_path / "train/classes.json").write_text("[]")
    with pytest.raises(UsageError, match=r"; move train/classes.json to .*/classes.json$"):
        detect_layout(store)


def test_a_source_within_its_split_is_told_to_begin_above(tmp_path):
    write(tmp_path, "train/images/0.png", "train/masks/0.png")
    with pytest.raises(UsageError, match="give the folder above train/ as the source"):
        detect_layout(open_store(tmp_path / "train"))


def test_targets_need_no_classes(tmp_path):
    store = open_store(write(tmp_path, "images/0.png", "targets/0.png"))
    assert what_it_lacks(store).endswith("move them to train/images/ and train/targets/, and a part of both to val/")


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("..", r"cityscapes begins in cityscapes/: give .*/cityscapes "),
        ("leftImg8bit", "give the folder in which leftImg8bit/ and gtFine/ lie side by side"),
    ],
)
def test_cityscapes_that_begins_elsewhere(cityscapes, source, wanted):
    with pytest.raises(UsageError, match=wanted):
        detect_layout(open_store((cityscapes / source).resolve()))


def test_the_two_trees_of_cityscapes_belong_side_by_side(cityscapes):
    for name in ("leftImg8bit", "gtFine"):
        (cityscapes / f"{name}_trainvaltest").mkdir()
        (cityscapes / name).rename(cityscapes / f"{name}_trainvaltest" / name)
    with pytest.raises(UsageError, match="the folder in which leftImg8bit/ and gtFine/ lie side by side"):
        detect_layout(open_store(cityscapes))


def test_all_that_is_missing_is_told_at_once(tmp_path):
    write(tmp_path, "images/0.png", "masks/0.png")
    with pytest.raises(
        NotFoundError, match=r"not in layout folders: .*move them to train/images/.*classes.json is missing"
    ):
        make_plan(str(tmp_path), layout="folders")


def test_masks_after_many_photographs_are_seen(tmp_path):
    store = open_store(tmp_path)
    keys = [f"train/{kind}/{number}.png" for kind in ("images", "labels") for number in range(12_000)]
    store.list = lambda prefix="": (ObjectInfo(key, 0, "tag") for key in keys if key.startswith(prefix))
    with pytest.raises(UsageError, match="train/images/ and train/labels/ look like photographs and their masks"):
        detect_layout(store)


def test_pairs_that_begin_elsewhere(pairs):
    folder = pairs(train=1, val=0)
    with pytest.raises(UsageError, match=r"pairs begins in pairs/: give .*/pairs as the source"):
        detect_layout(open_store(folder.parent))
    with pytest.raises(UsageError, match="in no split: move them to train/"):
        detect_layout(open_store(folder / "train"))


def test_a_source_of_classes_without_a_labeled_photo_is_told_what_it_lacks(folders):
    (folders / "train/masks").rename(folders / "train/labels")
    with pytest.raises(
        NotFoundError, match=r"no labeled photo in layout folders: train/images/ and train/labels/ .*: move them"
    ):
        make_plan(str(folders))


NAMES = st.sampled_from(
    ["train", "valid", "images", "img", "masks", "labels", "data", "leftImg8bit", "a", "\udcff", "x\ny"]
)
FILES = st.sampled_from(
    ["1.jpg", "1.png", "1_mask.png", "IMG_1.JPG", "._1.jpg", ".1.png", "2.webp", "classes.json", "u_leftImg8bit.png"]
)


@given(st.lists(st.tuples(st.lists(NAMES, max_size=3), FILES), min_size=1, max_size=8))
def test_any_folder_has_a_layout_or_one_line_of_reasons(tmp_path_factory, places):
    root = tmp_path_factory.mktemp("any")
    for folders, name in places:
        path = root.joinpath(*folders, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    line = ""
    try:
        detect_layout(open_store(root))
    except VitsegError as error:
        line = str(error)
    assert "\n" not in line
    line.encode()  # any log can store it
    shutil.rmtree(root)
