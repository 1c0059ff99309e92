import io
import json
import os
import re
import resource
import secrets
import shutil
import signal
import tarfile
import tempfile
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
import webdataset as wds
from PIL import Image

from tests.data.generated_shards import prepare, tar_names, write_folders
from tests.memory_s3 import memory_s3
from vitseg.data import shards as shards_module
from vitseg.data.loader import Batches
from vitseg.data.manifest import read_manifest
from vitseg.data.plan import make_plan
from vitseg.data.samples import make_sample
from vitseg.data.shards import done_shard, write_shard
from vitseg.data.verify import verify
from vitseg.errors import AccessError, DataError, EtagError, StoreFullError
from vitseg.storage import LocalStore, content_md5


def test_stock_webdataset_reads_what_was_in_the_source(cityscapes, tmp_path):
    _, manifest = prepare(cityscapes, tmp_path / "out", size=(24, 32))
    seen = {}
    for shard in manifest.splits["train"].shards:
        for sample in wds.WebDataset(str(tmp_path / "out" / shard.name), shardshuffle=False):
            seen[sample["__key__"]] = sample
    assert set(seen) == {"aachen_000000_000019", "aachen_000001_000019", "bonn_000002_000019"}
    sample = seen["bonn_000002_000019"]
    assert {name for name in sample if not name.startswith("__")} == {"jpg", "png", "json"}
    ids = np.asarray(Image.open(cityscapes / "gtFine/train/bonn/bonn_000002_000019_gtFine_labelIds.png"))
    wanted = np.select([ids == 7, ids == 23, ids == 26], [0, 10, 13])  # road, sky, car
    assert (np.asarray(Image.open(io.BytesIO(sample["png"]))) == wanted).all()
    source = "leftImg8bit/train/bonn/bonn_000002_000019_leftImg8bit.png"
    assert json.loads(sample["json"])["source"] == source
    photo = np.asarray(Image.open(io.BytesIO(sample["jpg"])), np.int16)
    original = np.asarray(Image.open(cityscapes / source), np.int16)
    flat = abs(photo.mean((0, 1)) - original.mean((0, 1)))
    assert photo.shape == original.shape
    assert flat.max() < 3


def test_counts_of_the_manifest_are_those_of_the_labels(pairs, tmp_path):
    plan, manifest = prepare(pairs(train=7, val=2), tmp_path / "out")
    assert {name: split.samples for name, split in manifest.splits.items()} == {"train": 7, "val": 2}
    assert manifest.samples + len(manifest.skipped) == plan.sources == 9
    pixels = manifest.splits["train"].pixels_per_class
    assert sum(pixels) == pytest.approx(7 * 32 * 32, rel=0.03)  # every pixel has a class, but for JPEG's edges
    assert pixels[0] > 3000 < pixels[10]
    assert pixels[13] > 500
    assert read_manifest(str(tmp_path / "out")) == manifest


def test_equal_input_gives_equal_bytes_wherever_it_lies(pairs, tmp_path):
    source = pairs(train=5, val=1)
    shutil.copytree(source, tmp_path / "copy")
    prepare(source, tmp_path / "a")
    prepare(tmp_path / "copy", tmp_path / "b")
    assert tar_names(tmp_path / "a") == tar_names(tmp_path / "b")
    for name in tar_names(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_tars_carry_nothing_of_the_machine(pairs, tmp_path):
    prepare(pairs(), tmp_path / "out")
    with tarfile.open(tmp_path / "out" / tar_names(tmp_path / "out")[0]) as tar:
        rows = {(row.mtime, row.uname, row.gname, row.uid, row.gid, row.mode) for row in tar}
    assert rows == {(0, "vitseg", "vitseg", 0, 0, 0o444)}


def test_broken_sources_become_rows_and_the_rest_goes_on(pairs, tmp_path):
    source = pairs(train=6, val=1)
    whole = (source / "train/0.jpg").read_bytes()
    (source / "train/1.jpg").write_bytes(whole[: len(whole) // 2])
    (source / "train/2.jpg").write_bytes(b"")
    Image.new("RGB", (65, 32), (128, 64, 128)).save(source / "train/3.jpg")
    unlabeled = Image.new("RGB", (64, 32))
    unlabeled.paste((200, 200, 200), (0, 0, 32, 32))
    unlabeled.save(source / "train/4.jpg")
    plan, manifest = prepare(source, tmp_path / "out")
    assert manifest.splits["train"].samples == 2
    reasons = {row.source: row.reason for row in manifest.skipped}
    assert set(reasons) == {f"train/{n}.jpg" for n in (1, 2, 3, 4)}
    assert "broken" in reasons["train/1.jpg"]
    assert "empty" in reasons["train/2.jpg"]
    assert "twice as wide" in reasons["train/3.jpg"]
    assert reasons["train/4.jpg"] == "no labeled pixel"
    assert manifest.samples + len(manifest.skipped) == plan.sources


def test_a_killed_run_continues_where_it_was(pairs, tmp_path, monkeypatch):
    source, dest = pairs(train=9, val=2), tmp_path / "out"
    plan = make_plan(str(source), size=(32, 32), shard_samples=3)
    for shard in list(plan.shards)[:2]:
        write_shard(shard, plan.options, str(dest))
    assert not (dest / "manifest.json").exists()
    before = {name: (dest / name).stat().st_mtime_ns for name in tar_names(dest)}
    made = []

    def note(planned, *rest):
        made.append(planned.key)
        return make_sample(planned, *rest)

    monkeypatch.setattr(shards_module, "make_sample", note)
    _, manifest = prepare(source, dest)
    assert sorted(made) == sorted(sample.key for shard in list(plan.shards)[2:] for sample in shard.samples)
    assert {name: (dest / name).stat().st_mtime_ns for name in before} == before
    prepare(source, tmp_path / "straight")
    assert tar_names(dest) == tar_names(tmp_path / "straight")
    assert manifest.samples == 11


@pytest.mark.parametrize("damage", ["no record", "broken record", "wrong record", "no tar", "short tar"])
def test_a_part_is_done_only_with_record_and_tar(pairs, tmp_path, damage):
    dest = tmp_path / "out"
    plan = make_plan(str(pairs(train=6, val=0)), shard_samples=3)
    first, second = plan.shards
    record = write_shard(first, plan.options, str(dest))
    other = write_shard(second, plan.options, str(dest))
    assert done_shard(first, plan.options, str(dest)) == record
    place = next(dest.rglob("train-00000.json"))
    tar = dest / record.shard.name
    if damage == "no record":
        place.unlink()
    elif damage == "broken record":
        place.write_bytes(place.read_bytes()[:-9])
    elif damage == "wrong record":
        place.write_bytes(next(dest.rglob("train-00001.json")).read_bytes())
    elif damage == "no tar":
        tar.unlink()
    else:
        tar.write_bytes(tar.read_bytes()[:-512])
    assert done_shard(first, plan.options, str(dest)) is None
    assert done_shard(second, plan.options, str(dest)) == other
    assert write_shard(first, plan.options, str(dest)) == record
    assert done_shard(first, plan.options, str(dest)) == record


def test_the_record_is_put_after_the_tar(pairs, tmp_path, monkeypatch):
    order = []
    write = LocalStore.write
    monkeypatch.setattr(LocalStore, "write", lambda self, key, *a, **k: order.append(key) or write(self, key, *a, **k))
    prepare(pairs(train=2, val=0), tmp_path / "out")
    assert [key.rpartition(".")[2] for key in order] == ["tar", "json", "json"]
    assert order[-1] == "manifest.json"


def peak_of(shard, plan, dest):
    tracemalloc.start()
    try:
        info = write_shard(shard, plan.options, dest).shard
        return info.bytes, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("where", ["folder", "bucket"])
def test_memory_does_not_grow_with_the_shard(pairs, tmp_path, s3, where):
    plan = make_plan(str(pairs(train=100, val=0, side=256)), size=(256, 256))
    dest = str(tmp_path / "out") if where == "folder" else f"{s3}/test-{secrets.token_hex(6)}"
    (whole,) = plan.shards
    write_shard(replace(whole, samples=whole.samples[:1], index=1), plan.options, dest)  # what is made once
    _, few = peak_of(replace(whole, samples=whole.samples[:10], index=2), plan, dest)
    size, many = peak_of(whole, plan, dest)
    assert many < few + 2**19
    assert many < size / 2


def test_no_room_for_temporary_files_says_what_to_do(pairs, tmp_path, monkeypatch):
    plan = make_plan(str(pairs(train=9, val=0, side=64)), size=(64, 64))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(StoreFullError, match=r"nowhere has no room for a shard \(.*\): set TMPDIR to a disk that has"):
        write_shard(plan.shards[0], plan.options, str(tmp_path / "out"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    limits, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(StoreFullError, match=r"has no room for a shard \(File too large\)"):
            write_shard(plan.shards[0], plan.options, str(tmp_path / "out"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not (tmp_path / "out").exists()


def test_a_refused_read_fails_the_part_and_is_no_row(pairs, tmp_path, monkeypatch):
    plan = make_plan(str(pairs(train=3, val=0)))

    def refuse(self, key):
        if key.endswith("1.jpg"):
            raise AccessError("the store refuses access")
        return read(self, key)

    read = LocalStore.read_tagged
    monkeypatch.setattr(LocalStore, "read_tagged", refuse)
    with pytest.raises(AccessError):
        write_shard(plan.shards[0], plan.options, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_source_that_changed_after_planning_stops_the_run(pairs, tmp_path):
    source = pairs(train=3, val=0)
    plan = make_plan(str(source))
    (source / "train/1.jpg").write_bytes((source / "train/0.jpg").read_bytes())
    with pytest.raises(DataError, match=r"train/1\.jpg changed since"):
        write_shard(plan.shards[0], plan.options, str(tmp_path / "out"))
    (source / "train/1.jpg").unlink()
    with pytest.raises(DataError, match=r"train/1\.jpg vanished since"):
        write_shard(plan.shards[0], plan.options, str(tmp_path / "out"))


def test_an_etag_that_is_no_md5_is_found_where_its_content_is_read(pairs, tmp_path):
    source = pairs(train=9, val=0)
    with memory_s3() as server:
        server.random_etags = re.compile("train/[13]")  # those that the plan doesn't compare
        for path in source.rglob("*.jpg"):
            server.put(f"set/{path.relative_to(source)}", path.read_bytes())
        plan = make_plan("s3://bucket/set")
        with pytest.raises(EtagError, match="not the MD5"):
            write_shard(plan.shards[0], plan.options, str(tmp_path / "out"))
        plan = make_plan("s3://bucket/set", trust_etags=False)
        assert plan.fingerprint == make_plan(str(source)).fingerprint
        assert write_shard(plan.shards[0], plan.options, str(tmp_path / "out")).samples == 9
        server.put("set/train/1.jpg", b"another")
        with pytest.raises(DataError, match=r"train/1\.jpg changed since"):
            write_shard(plan.shards[0], plan.options, str(tmp_path / "other"))


def test_a_file_is_hashed_again_only_if_it_was_touched(cityscapes, tmp_path, monkeypatch):
    plan = make_plan(str(cityscapes))
    hashed = []
    monkeypatch.setattr(shards_module, "content_md5", lambda data: hashed.append(data) or content_md5(data))
    write_shard(plan.shards[0], plan.options, str(tmp_path / "out"))
    assert hashed == []
    os.utime(cityscapes / plan.shards[0].samples[0].image)
    write_shard(plan.shards[0], plan.options, str(tmp_path / "again"))
    assert len(hashed) == 1


def test_a_binary_set_has_two_plain_classes(tmp_path):
    masks = [np.zeros((8, 8), np.uint8), np.full((8, 8), 255, np.uint8)]
    masks[1][:2] = 0
    source = write_folders(
        tmp_path / "cracks", masks, [{"name": "crack", "color": [255, 255, 255], "id": 255, "train_id": 0}]
    )
    _, manifest = prepare(source, tmp_path / "out", size=(8, 8))
    assert [(label.name, label.id, label.train_id) for label in manifest.classes] == [
        ("crack", 255, 0),
        ("background", 0, 1),
    ]
    assert manifest.splits["train"].pixels_per_class == (48, 80)
    assert read_manifest(str(tmp_path / "out")) == manifest
    assert verify(str(tmp_path / "out")).problems == []


def test_pairs_of_images_are_shards_that_stock_webdataset_reads(tmp_path):
    rng = np.random.default_rng(0)
    targets = {}
    for split, number in [("train", number) for number in range(8)] + [("val", 8)]:
        for part in ("images", "targets"):
            pixels = rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)
            path = tmp_path / "pairs" / split / part / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
            if part == "targets":
                targets[str(number)] = pixels
    plan, manifest = prepare(tmp_path / "pairs", tmp_path / "out", size=(8, 12))
    assert (plan.options.layout, manifest.classes) == ("images", ())
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["classes"] == []
    assert read_manifest(str(tmp_path / "out")) == manifest
    report = verify(str(tmp_path / "out"))
    assert (report.samples, report.problems) == (9, [])
    for split in manifest.splits.values():
        for shard in split.shards:
            for sample in wds.WebDataset(str(tmp_path / "out" / shard.name), shardshuffle=False).decode("rgb8"):
                np.testing.assert_array_equal(sample["png"], targets[sample["__key__"]])
    plain, flipped = (
        next(Batches(str(tmp_path / "out"), manifest, "train", batch_size=8, flip=flip).epoch(0))
        for flip in (False, True)
    )
    assert plain.labels.shape == (8, 3, 8, 12)
    for key, label in zip(plain.keys, plain.labels, strict=True):
        np.testing.assert_array_equal(label.permute(1, 2, 0), targets[key])
    mirrored = [not torch.equal(one, other) for one, other in zip(plain.images, flipped.images, strict=True)]
    for turned, one, other in zip(mirrored, plain.labels, flipped.labels, strict=True):
        assert torch.equal(one.flip(2) if turned else one, other)
    assert 0 < sum(mirrored) < 8


def test_verify_names_a_target_that_is_no_color_image(tmp_path):
    gray = np.zeros((8, 8), np.uint8)
    write_folders(tmp_path / "pairs", [gray], [])
    (tmp_path / "pairs" / "classes.json").unlink()
    (tmp_path / "pairs" / "train" / "masks").rename(tmp_path / "pairs" / "train" / "targets")
    prepare(tmp_path / "pairs", tmp_path / "out", size=(8, 8))
    content = json.loads((tmp_path / "out" / "manifest.json").read_text())
    label = {"name": "crack", "color": [1, 2, 3], "id": 1, "train_id": 0}
    del content["targets"]
    content["classes"] = [label, {**label, "name": "other", "id": 2, "train_id": 1}]
    content["splits"]["train"]["pixels_per_class"] = [0, 0]
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(content))
    assert any("PNG of mode RGB, not PNG of mode L" in problem for problem in verify(str(tmp_path / "out")).problems)
