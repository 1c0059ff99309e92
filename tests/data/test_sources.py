import json
import os
import random
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitseg.data.layouts import detect_layout
from vitseg.data.manifest import SkippedSource
from vitseg.data.sources import Sample, find_samples, read_classes, sample_key
from vitseg.errors import DataError, NotFoundError, UsageError
from vitseg.images.formats import has_image_name
from vitseg.storage import LocalStore, ObjectInfo, open_store


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
    (folders / "train/images/._street 0.jpg").write_bytes(b"x")
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
        json.dumps([{"name": "a", "color": [n, 0, 0], "id": n, "train_id": n} for n in (0, 1)]),
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


def test_names_that_differ_in_form_case_or_a_word_are_paired(tmp_path):
    pairs = [
        ("caf\u00e9", "cafe\u0301"),
        ("IMG_1", "img_1"),
        ("0001", "0001_mask"),
        ("x/2", "x/2_gtFine_labelIds"),
        ("img-7", "mask-7"),
    ]
    for photo, label in pairs:
        for path in (tmp_path / f"train/images/{photo}.jpg", tmp_path / f"train/masks/{label}.png"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
    notes = []
    for store in (open_store(tmp_path), Scrambled(tmp_path)):
        rows = list(find_samples(store, "folders", notes.append))
        assert {(row.image.key[13:-4], row.label.key[12:-4]) for row in rows} == set(pairs)
    assert notes[0] == notes[1]
    assert notes[0].startswith("5 photos are paired with labels whose names are not equal but alike: train/images/")


def test_names_that_are_like_several_are_not_guessed(folders):
    (folders / "train/masks/street 0.png").rename(folders / "train/masks/Street 0.png")
    (folders / "train/masks/street 0_mask.png").write_bytes(b"x")
    samples, skipped = split_up(open_store(folders), "folders")
    assert len(samples) == 3
    assert skipped == {
        "train/images/street 0.jpg": "no label belongs to this photo alone: other names are like its own",
        "train/masks/Street 0.png": "no photo belongs to this label alone: other names are like its own",
        "train/masks/street 0_mask.png": "no photo belongs to this label alone: other names are like its own",
    }


def test_equal_names_count_before_names_that_are_alike(folders):
    (folders / "train/images/STREET 0.jpg").write_bytes(b"x")
    samples, skipped = split_up(open_store(folders), "folders")
    assert samples[0].image.key == "train/images/street 0.jpg"
    assert skipped == {"train/images/STREET 0.jpg": "no label belongs to this photo"}


@pytest.mark.parametrize(("names", "wanted"), [
    ("Training valid test", "train val test"),
    ("train validation", "train val"),
    ("train val valid", "train val valid"),
    ("train valid validation", "train valid validation"),
])  # fmt: skip
def test_splits_are_taken_as_what_they_can_only_mean(pairs, names, wanted):
    folder = pairs(train=1, val=0)
    for name in names.split()[1:]:
        shutil.copytree(folder / "train", folder / name)
    (folder / "train").rename(folder / names.split()[0])
    notes = []
    samples = list(find_samples(open_store(folder), "pairs", notes.append))
    assert {sample.split for sample in samples} == set(wanted.split())
    assert sorted(notes) == [
        f"the split {old} is taken as {new}"
        for old, new in zip(names.split(), wanted.split(), strict=True)
        if old != new
    ]


def test_coarse_labels_are_not_read_and_said(cityscapes):
    fine = cityscapes / "gtFine/train/bonn/bonn_000002_000019_gtFine_labelIds.png"
    coarse = cityscapes / "gtCoarse/train/bonn/bonn_000002_000019_gtCoarse_labelIds.png"
    coarse.parent.mkdir(parents=True)
    fine.rename(coarse)
    (cityscapes / "leftImg8bit/train/bonn/bonn.png").write_bytes(b"x")
    samples, skipped = split_up(open_store(cityscapes), "cityscapes")
    assert len(samples) == 3
    assert skipped == {
        "leftImg8bit/train/bonn/bonn_000002_000019_leftImg8bit.png": "no label belongs to this photo, only "
        "a coarse one, which is not read",
        "leftImg8bit/train/bonn/bonn.png": "its name is not SPLIT/CITY/…_leftImg8bit.png",
    }


def test_images_without_a_place_in_the_layout_are_rows(folders):
    for name in (
        "overview.png",
        "train/labels/0.png",
        "train/images/.a.jpg",
        "train/images/b.HEIC",
        "train/images/x\ny.jpg",
        "_vitseg/c.png",
    ):
        (folders / name).parent.mkdir(exist_ok=True)
        (folders / name).write_bytes(b"x")
    samples, skipped = split_up(open_store(folders), "folders")
    assert len(samples) == 4
    assert skipped == {
        "overview.png": "it is in no folder SPLIT/images or SPLIT/masks",
        "train/labels/0.png": "it is in no folder SPLIT/images or SPLIT/masks",
        "train/images/.a.jpg": "its name begins with a dot: the file is hidden",
        "train/images/b.HEIC": ".HEIC files are not read",
        "train/images/x\ny.jpg": "no label belongs to this photo",
    }


FOLDERS = st.sampled_from(
    ["train/images", "train/masks", "Valid/images", "valid/masks", "images", "train", "train/images/a"]
)
STEMS = st.sampled_from(["1", "A", "a", "a_mask", "img_a", "\u00e9", "e\u0301", "x\ny", "b c", ".a", "._a", "\udcff"])
ENDINGS = st.sampled_from([".jpg", ".PNG", ".png", ".heic", ".txt", ""])


@given(st.sets(st.tuples(FOLDERS, STEMS, ENDINGS), max_size=14), st.sampled_from(["folders", "pairs", "photos"]))
def test_every_image_is_in_a_sample_or_in_a_row(names, layout):
    keys = {f"{folder}/{stem}{ending}" for folder, stem, ending in names}
    store = LocalStore(Path("anywhere"))
    store.list = lambda prefix="": (ObjectInfo(key, 1, "tag") for key in keys)
    samples, skipped = split_up(store, layout)
    counted = [part.key for sample in samples for part in (sample.image, sample.label) if part]
    told = [*counted, *skipped]
    images = [key for key in keys if has_image_name(key) and "/._" not in key]
    if layout == "photos":  # which leaves out labels
        images = [key for key in images if "/masks/" not in key or key in told]
    assert sorted(told) == sorted(images)
    assert len({(sample.split, sample.key) for sample in samples}) == len(samples)
