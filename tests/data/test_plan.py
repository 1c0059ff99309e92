import dataclasses
import gc
import json
import os
import pickle
import shutil
import sqlite3
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.memory_s3 import memory_s3
from vitseg.data import plan as plan_module
from vitseg.data.plan import make_plan
from vitseg.data.temporary_database import TemporaryDatabase
from vitseg.errors import NotFoundError, StoreFullError, UsageError
from vitseg.storage import LocalStore, ObjectInfo, content_md5

IMAGES = "train/images/{}.jpg", "train/targets/{}.png"
FOLDERS = "train/images/{}.jpg", "train/masks/{}.png"
PHOTOS = ("camera/images/{}.jpg",)
CITYSCAPES = "leftImg8bit/train/ulm/{}_leftImg8bit.png", "gtFine/train/ulm/{}_gtFine_color.png"


def keys_of(plan):
    return [(shard.split, sample.key) for shard in plan.shards for sample in shard.samples]


def many(count, names):
    """Return a listing of so many photographs, and their labels if they have names."""

    def listing(self, prefix=""):
        for name in names:
            for number in range(count if name.startswith(prefix) else 0):
                yield ObjectInfo(name.format(f"a-photograph-with-a-long-name-{number:08}"), 1, f"{number:032}")

    return listing


def test_every_source_is_in_one_shard_and_all_are_of_like_size(pairs):
    plan = make_plan(str(pairs(train=11, val=3)), shard_samples=4)
    assert [(shard.split, shard.index) for shard in plan.shards] == [
        ("train", 0),
        ("train", 1),
        ("train", 2),
        ("val", 0),
    ]
    assert sorted(len(shard.samples) for shard in plan.shards if shard.split == "train") == [3, 4, 4]
    expected = {("train", str(n)) for n in range(11)} | {("val", str(n)) for n in range(3)}
    assert set(keys_of(plan)) == expected
    assert len(keys_of(plan)) == plan.sources == 14


def test_neighbors_are_spread_over_shards(pairs):
    plan = make_plan(str(pairs(train=40, val=1)), shard_samples=10)
    first = {int(sample.key) for sample in plan.shards[0].samples}
    assert first != set(range(10))
    assert max(first) > 20 > min(first)


def test_sources_are_named_by_what_they_hold(pairs):
    folder = pairs(train=1, val=0)
    (shard,) = make_plan(str(folder)).shards
    (sample,) = shard.samples
    assert sample.image == "train/0.jpg"
    assert sample.image_md5 == content_md5((folder / "train/0.jpg").read_bytes())
    assert sample.label is None


def test_the_parts_of_a_plan_travel_as_pickle_and_as_json(folders):
    plan = make_plan(str(folders))
    parts = plan.options, plan.shards[0]
    assert pickle.loads(pickle.dumps(parts)) == parts
    options, shard = json.loads(json.dumps([dataclasses.asdict(part) for part in parts]))
    assert options["layout"] == "folders"
    assert len(shard["samples"]) == 4
    assert [label.name for label in plan.options.classes] == ["crack", "asphalt"]
    with pytest.raises(TypeError, match="pickle"):  # a whole plan may be as large as its source is long
        pickle.dumps(plan)


def test_shards_are_read_one_by_one_in_any_order(pairs):
    shards = make_plan(str(pairs(train=11, val=3)), shard_samples=4).shards
    in_order = list(shards)
    assert len(shards) == len(in_order) == 4
    assert [shards[number] for number in (3, 1, -2, -4)] == [in_order[number] for number in (3, 1, 2, 0)]
    assert in_order[2] in shards
    for number in (4, -5):
        with pytest.raises(IndexError):
            shards[number]


def test_a_plan_that_is_closed_has_no_file_any_more(folders, monkeypatch):
    def open_files():
        return sum("etilqs" in str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink())

    before = open_files()
    monkeypatch.setattr(LocalStore, "list", many(12_000, IMAGES))
    monkeypatch.setattr(LocalStore, "md5", lambda self, info: info.etag)
    plan = make_plan(str(folders), layout="images")
    again = make_plan(str(folders), layout="images")
    assert open_files() >= before + 2  # what is in one may have been in memory alone
    plan.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        plan.shards[0]
    assert len(again.shards[0].samples) > 200
    del again
    gc.collect()
    assert open_files() == before


def test_a_disk_without_room_for_the_plan_is_said(folders, monkeypatch):
    class Small(TemporaryDatabase):
        def __init__(self):
            super().__init__()
            self.execute("PRAGMA max_page_count = 40")

    monkeypatch.setattr(LocalStore, "list", many(12_000, IMAGES))
    monkeypatch.setattr(plan_module, "TemporaryDatabase", Small)
    with pytest.raises(StoreFullError, match="TMPDIR"):
        make_plan(str(folders), layout="images")


def test_a_copy_elsewhere_has_the_same_fingerprint(cityscapes, tmp_path):
    plan = make_plan(str(cityscapes))
    shutil.copytree(cityscapes, tmp_path / "copy")
    copy = make_plan((tmp_path / "copy").as_uri(), layout="cityscapes")
    assert copy.fingerprint == plan.fingerprint
    assert copy.shards == plan.shards


def test_a_bucket_has_the_fingerprint_of_a_folder_whatever_its_etags_are(folders):
    expected = make_plan(str(folders))
    for odd in ((), ("etags",)):
        with memory_s3(*odd) as server:
            for path in folders.rglob("*.*"):
                server.put(f"set/{path.relative_to(folders)}", path.read_bytes())
            plan = make_plan("s3://bucket/set")
            assert plan.fingerprint == expected.fingerprint
            assert plan.shards == expected.shards
            reads = server.requests["GET"]
            assert reads == (1 + min(8, 2 * plan.sources) if not odd else 2 + 2 * plan.sources)


def test_times_don_t_change_the_fingerprint_but_one_byte_does(cityscapes):
    before = make_plan(str(cityscapes)).fingerprint
    for path in cityscapes.rglob("*.png"):
        os.utime(path, (1, 1))
    assert make_plan(str(cityscapes)).fingerprint == before
    label = next(cityscapes.rglob("*_labelIds.png"))
    data = bytearray(label.read_bytes())
    data[-20] ^= 1
    label.write_bytes(data)
    assert make_plan(str(cityscapes)).fingerprint != before


def test_options_and_classes_change_the_fingerprint(folders):
    prints = {
        make_plan(str(folders)).fingerprint,
        make_plan(str(folders), size=(64, 64)).fingerprint,
        make_plan(str(folders), size=(64, 32)).fingerprint,
        make_plan(str(folders), shard_samples=2).fingerprint,
    }
    classes = folders / "classes.json"
    classes.write_text(classes.read_text().replace("asphalt", "tar"))
    prints.add(make_plan(str(folders)).fingerprint)
    assert len(prints) == 5


def test_a_label_without_photo_is_counted_but_changes_no_fingerprint(cityscapes):
    before = make_plan(str(cityscapes))
    orphan = cityscapes / "gtFine/val/ulm/ulm_000009_000019_gtFine_labelIds.png"
    orphan.write_bytes(b"x")
    after = make_plan(str(cityscapes))
    assert after.fingerprint == before.fingerprint
    assert after.sources == before.sources + 1
    assert after.skipped[0].source.endswith(orphan.name)


def test_huge_files_are_left_out(pairs, monkeypatch):
    folder = pairs(train=2, val=0)
    limit = max(path.stat().st_size for path in folder.rglob("*.jpg"))
    (folder / "train/big.jpg").write_bytes(b"x" * (limit + 1))
    monkeypatch.setattr(plan_module, "MAX_SOURCE_BYTES", limit)
    plan = make_plan(str(folder))
    assert len(keys_of(plan)) == 2
    assert plan.skipped[0].source == "train/big.jpg"


def test_progress_reaches_the_end(pairs):
    seen = []
    make_plan(str(pairs(train=5, val=2)), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 7) for n in range(1, 8)]


@pytest.mark.parametrize("options", [{"size": (0, 8)}, {"size": (8, 10**6)}, {"shard_samples": 0}, {"layout": "x"}])
def test_options_out_of_range_are_refused(pairs, options):
    with pytest.raises(UsageError):
        make_plan(str(pairs()), **options)


def test_a_source_without_a_labeled_photo_says_why(cityscapes):
    for path in cityscapes.rglob("*_labelIds.png"):
        path.unlink()
    with pytest.raises(NotFoundError, match="no label belongs to this photo"):
        make_plan(str(cityscapes))


@pytest.mark.parametrize(
    ("layout", "names", "fingerprint"),
    [
        ("cityscapes", CITYSCAPES, "0367224e35b761f5"),
        ("pairs", ("val/{}.jpg",), "07a0cbc95c3faa85"),
        ("folders", FOLDERS, "a80d1c6ae206a06b"),
        ("images", IMAGES, "1226cf3cafff2e01"),
        ("photos", PHOTOS, "04b43c663b7c42bb"),
    ],
)
def test_data_sets_that_exist_keep_their_fingerprint(tmp_path, monkeypatch, layout, names, fingerprint):
    rows = [{"name": name, "color": [id, 0, 0], "id": id, "train_id": id} for id, name in enumerate(["road", "sky"])]
    (tmp_path / "classes.json").write_text(json.dumps(rows))
    monkeypatch.setattr(LocalStore, "list", many(700, names))
    monkeypatch.setattr(LocalStore, "md5", lambda self, info: info.etag)
    assert make_plan(str(tmp_path), layout=layout, shard_samples=64).fingerprint[:16] == fingerprint


@pytest.mark.parametrize(("layout", "names"), [("cityscapes", CITYSCAPES), ("images", IMAGES), ("photos", PHOTOS)])
def test_planning_a_large_source_takes_memory_for_a_page(monkeypatch, layout, names):
    monkeypatch.setattr(LocalStore, "md5", lambda self, info: info.etag)
    peaks = []
    for count in (2_000, 20_000):
        monkeypatch.setattr(LocalStore, "list", many(count, names))
        tracemalloc.start()
        plan = make_plan("anywhere", layout=layout)
        assert sum(len(shard.samples) for shard in plan.shards) == plan.sources == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 18_000 * 20  # a million images: less than 20 MB more than two thousand


@settings(max_examples=20, deadline=None)
@given(
    names=st.lists(st.text("abc.0_é ", min_size=1, max_size=6), min_size=1, max_size=12, unique=True),
    shard_samples=st.integers(1, 6),
)
def test_the_plan_is_a_function_of_the_content(tmp_path_factory, names, shard_samples):
    names = [name for name in names if not name.startswith(".") and name.strip()] or ["a"]
    plans = []
    for order in (names, names[::-1]):
        folder = tmp_path_factory.mktemp("source")
        (folder / "train").mkdir()
        for name in order:
            (folder / "train" / f"{name}.jpg").write_text(name)
        plans.append(make_plan(str(folder), layout="pairs", shard_samples=shard_samples))
    assert plans[0].shards == plans[1].shards
    assert plans[0].fingerprint == plans[1].fingerprint
    keys = keys_of(plans[0])
    assert len(set(keys)) == len(keys) == len(names)
    assert max(len(shard.samples) for shard in plans[0].shards) <= shard_samples


def test_files_of_a_folder_that_can_not_be_read_are_rows(folders):
    (folders / "train/images/street 0.jpg").unlink()
    (folders / "train/images/street 0.jpg").symlink_to("nowhere")
    (folders / "train/masks/street 1.png").unlink()
    os.mkfifo(folders / "train/masks/street 1.png")
    plan = make_plan(str(folders))
    assert (plan.shards.samples, plan.sources) == (2, 4)
    reasons = {row.source: row.reason for row in plan.skipped}
    assert reasons["train/images/street 0.jpg"].endswith("it is a link to nowhere, which is missing")
    assert reasons["train/images/street 1.jpg"].endswith("street 1.png: it is no file but a pipe, socket or device")


def test_what_was_understood_of_names_is_noted(folders):
    (folders / "train").rename(folders / "Train")
    assert make_plan(str(folders)).notes == ("the split Train is taken as train",)
