import json
import os
import random
from pathlib import Path

import pytest

from vitseg.data.manifest import SkippedSource
from vitseg.data.sources import Sample, detect_layout, find_samples, read_classes, sample_key
from vitseg.errors import DataError, NotFoundError, UsageError
from vitseg.storage import LocalStore, open_store


class Scrambled(LocalStore):
    """A store that lists in an order of its own, as some S3 servers do."""

    def list(self, prefix=""):
        rows = list(super().list(prefix))
        random.Random(7).shuffle(rows)
        yield from rows


def split_up(store, layout):
    rows = list(find_samples(store, layout))
    samples = [row for row in rows if not isinstance(row, SkippedSource)]
    return samples, {row.source: row.reason for row in rows if isinstance(row, SkippedSource)}


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


def test_an_unknown_layout_is_refused(tmp_path):
    with pytest.raises(UsageError, match="cityscapes, pairs, folders"):
        list(find_samples(open_store(tmp_path), "coco"))


def test_cityscapes_pairs_photos_with_label_ids(cityscapes):
    samples, skipped = split_up(open_store(cityscapes), "cityscapes")
    assert not skipped
    assert [(sample.split, sample.key) for sample in samples] == [
        ("train", "aachen_000000_000019"),
        ("train", "aachen_000001_000019"),
        ("train", "bonn_000002_000019"),
        ("val", "ulm_000003_000019"),
    ]
    assert all(sample.label.key.endswith("_labelIds.png") for sample in samples)


def test_cityscapes_takes_colors_only_where_ids_are_missing(cityscapes):
    gt = cityscapes / "gtFine/train/aachen"
    ids = sorted(gt.iterdir())
    for path in ids:
        path.with_name(path.name.replace("labelIds", "color")).write_bytes(b"x")
        path.with_name(path.name.replace("labelIds", "instanceIds")).write_bytes(b"x")
    ids[0].unlink()
    samples, skipped = split_up(open_store(cityscapes), "cityscapes")
    assert [sample.label.key.rpartition("_")[2] for sample in samples[:2]] == ["color.png", "labelIds.png"]
    assert not skipped


def test_other_trees_of_cityscapes_are_ignored(cityscapes):
    coarse = cityscapes / "gtCoarse/train/aachen/x_gtCoarse_labelIds.png"
    coarse.parent.mkdir(parents=True)
    coarse.write_bytes(b"x")
    samples, skipped = split_up(open_store(cityscapes), "cityscapes")
    assert len(samples) == 4
    assert not skipped


def test_photos_and_labels_without_partner_become_rows(cityscapes):
    (cityscapes / "gtFine/train/bonn/bonn_000002_000019_gtFine_labelIds.png").unlink()
    (cityscapes / "leftImg8bit/val/ulm/ulm_000003_000019_leftImg8bit.png").unlink()
    samples, skipped = split_up(open_store(cityscapes), "cityscapes")
    assert len(samples) == 2
    assert skipped == {
        "leftImg8bit/train/bonn/bonn_000002_000019_leftImg8bit.png": "no label belongs to this photo",
        "gtFine/val/ulm/ulm_000003_000019_gtFine_labelIds.png": "no photo belongs to this label",
    }


def test_folders_pair_by_stem_whatever_the_ending(folders):
    (folders / "train/images/street 0.jpg").rename(folders / "train/images/street 0.JPEG")
    (folders / "train/images/.DS_Store.jpg").write_bytes(b"x")
    (folders / "train/images/readme.txt").write_bytes(b"x")
    samples, skipped = split_up(open_store(folders), "folders")
    assert len(samples) == 4
    assert not skipped


def test_two_photos_with_one_stem_are_not_both_taken(folders):
    (folders / "train/images/street 0.png").write_bytes(b"x")
    for store in (open_store(folders), Scrambled(folders)):
        samples, skipped = split_up(store, "folders")
        assert samples[0].image.key == "train/images/street 0.jpg"
        assert skipped == {"train/images/street 0.png": "train/images/street 0.jpg has the same stem"}


def test_the_order_does_not_depend_on_the_store(pairs):
    folder = pairs(train=12)
    for ending in ("png", "JPG", "jpeg"):
        (folder / f"train/3.{ending}").write_bytes(b"x")
    assert list(find_samples(open_store(folder), "pairs")) == list(find_samples(Scrambled(folder), "pairs"))


def test_names_that_are_no_utf_8_keep_their_place_and_their_bytes(tmp_path):
    names = [b"e.jpg", b"\x80.jpg", "é.jpg".encode(), b"\xff.jpg", "\ue000.jpg".encode(), "😀.jpg".encode()]
    (tmp_path / "train").mkdir()
    for name in names:
        Path(tmp_path / "train", os.fsdecode(name)).write_bytes(b"x")
    for store in (open_store(tmp_path), Scrambled(tmp_path)):
        samples, skipped = split_up(store, "pairs")
        assert not skipped
        keys = [sample.image.key for sample in samples]
        assert {os.fsencode(key) for key in keys} == {b"train/" + name for name in names}
        assert keys == sorted(keys)
        assert all(store.stat(sample.image.key) == sample.image for sample in samples)


def test_a_split_that_can_not_name_a_shard_becomes_rows(pairs):
    folder = pairs(train=2, val=1)
    (folder / "train").rename(folder / "my train.v2")
    samples, skipped = split_up(open_store(folder), "pairs")
    assert [sample.split for sample in samples] == ["val"]
    assert len(skipped) == 2


@pytest.mark.parametrize("stem", ["img.v1", "a b", "sub/dir/x", "straße", "x" * 300, "../../x"])
def test_keys_fit_a_tar_and_webdataset(stem):
    key = sample_key(stem)
    assert len(f"{key}.json") <= 100
    assert not set(key) & set("./ \\")
    assert key.isascii()


def test_keys_of_different_stems_differ():
    stems = ["a.b", "a_b", "a b", "a/b", "x" * 80, "x" * 81, "x" * 72]
    assert len({sample_key(stem) for stem in stems}) == len(stems)


def test_classes_come_from_the_source_where_it_has_its_own(folders, cityscapes):
    assert [label.name for label in read_classes(open_store(folders), "folders")] == [
        "void",
        "crack",
        "asphalt",
    ]
    assert len(read_classes(open_store(cityscapes), "cityscapes")) == 35


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "[1]",
        "nonsense",
        json.dumps([{"name": "a", "color": [0, 0, 0], "id": 0, "train_id": 1}]),
        json.dumps([{"name": n, "color": [0, 0, 0], "id": 0, "train_id": 0} for n in "ab"]),
    ],
)
def test_a_bad_list_of_classes_is_refused(folders, content):
    (folders / "classes.json").write_text(content)
    with pytest.raises(DataError, match=r"classes\.json"):
        read_classes(open_store(folders), "folders")


def test_missing_classes_are_asked_for(folders):
    (folders / "classes.json").unlink()
    with pytest.raises(NotFoundError, match="name, color, id and train_id"):
        read_classes(open_store(folders), "folders")


def test_photos_without_labels_are_every_image_and_one_in_twenty_validates(tmp_path):
    names = [f"camera-{n % 2}/{n:03d}.{('jpg', 'PNG', 'webp')[n % 3]}" for n in range(41)]
    for name in [*names, "notes.txt", "camera-0/._000.jpg", "_vitseg/job/panel.png", "camera-0/000.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    samples, skipped = split_up(open_store(tmp_path), "photos")
    assert not skipped
    assert {sample.image.key for sample in samples} == {*names, "camera-0/000.png"}  # equal stems, two photos
    assert len({sample.key for sample in samples}) == 42
    assert [sample.split for sample in samples].count("val") == 2
    assert not any(sample.label for sample in samples)
    assert split_up(Scrambled(tmp_path), "photos")[0] == samples
    assert read_classes(open_store(tmp_path), "photos") == ()


@pytest.mark.parametrize(
    ("photo", "label"),
    [
        ("leftImg8bit/train/ulm/u_leftImg8bit.png", "gtFine/train/ulm/u_gtFine_labelIds.png"),
        ("cityscapes/leftImg8bit/train/ulm/u_leftImg8bit.png", "cityscapes/gtCoarse/train/ulm/u_gtCoarse_color.png"),
        ("train/images/a.jpg", "train/masks/a.png"),
        ("Train/Images/masks.jpg", "Train/Targets/a.png"),
        ("city/set-a/train/images/a.jpg", "city/set-a/train/masks/deep/a.png"),
    ],
)
def test_labels_of_other_layouts_are_no_photos(tmp_path, photo, label):
    for name in (photo, label):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    samples, skipped = split_up(open_store(tmp_path), "photos")
    assert [sample.image.key for sample in samples] == [photo]
    assert not skipped
    (tmp_path / photo).unlink()  # photographs of masks, alone, in a folder that says so
    assert [sample.image.key for sample in split_up(open_store(tmp_path), "photos")[0]] == [label]


def test_a_single_photo_trains(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    assert [sample.split for sample in split_up(open_store(tmp_path), "photos")[0]] == ["train"]


def test_pairs_of_images_are_told_by_their_targets(tmp_path):
    for name in ("train/images/a.jpg", "train/targets/a.png", "train/images/b.jpg", "test/images/c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    store = open_store(tmp_path)
    assert detect_layout(store) == "images"
    assert read_classes(store, "images") == ()
    found = list(find_samples(store, "images"))
    assert [(row.key, row.label.key) for row in found if isinstance(row, Sample)] == [("a", "train/targets/a.png")]
    assert {row.source for row in found if not isinstance(row, Sample)} == {"train/images/b.jpg", "test/images/c.jpg"}
    (tmp_path / "classes.json").write_text("[]")
    assert detect_layout(store) == "folders"  # who lists classes means masks


def test_photographs_alone_have_no_layout(tmp_path):
    (tmp_path / "train/images").mkdir(parents=True)
    (tmp_path / "train/images/a.jpg").write_bytes(b"x")
    with pytest.raises(UsageError, match="SPLIT/targets"):
        detect_layout(open_store(tmp_path))
