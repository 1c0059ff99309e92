import dataclasses
import json

import pytest

from vitseg.data.manifest import (
    Manifest,
    ShardInfo,
    SkippedSource,
    Split,
    manifest_tag,
    read_manifest,
    write_manifest,
)
from vitseg.errors import DataError, NotFoundError
from vitseg.labels import train_classes
from vitseg.storage import open_store

SHARD = ShardInfo("train-00000-0123456789ab.tar", "0" * 64, 10240, 3)
MANIFEST = Manifest(
    fingerprint="f" * 64,
    created="2024-05-01T12:00:00+00:00",
    image_size=(128, 256),
    classes=train_classes(),
    splits={"train": Split(3, tuple(range(19)), (SHARD,))},
    skipped=(SkippedSource("train/ü.jpg", "the photo is broken"),),
)


def test_what_was_written_is_read(tmp_path):
    write_manifest(open_store(tmp_path), MANIFEST)
    assert read_manifest(str(tmp_path)) == MANIFEST


def test_a_manifest_replaces_only_the_one_it_was_told_of(tmp_path):
    store, other = open_store(tmp_path), dataclasses.replace(MANIFEST, fingerprint="0" * 64)
    assert manifest_tag(str(tmp_path)) is None
    assert write_manifest(store, MANIFEST)
    first = manifest_tag(str(tmp_path))
    assert not write_manifest(store, other)
    assert not write_manifest(store, other, "another tag")
    assert read_manifest(str(tmp_path)) == MANIFEST
    assert write_manifest(store, other, first)
    assert read_manifest(str(tmp_path)) == other
    (tmp_path / "manifest.json").unlink()  # whoever removed the old one doesn't want it
    assert write_manifest(store, MANIFEST, first)


def test_file_has_the_format_of_the_contract(tmp_path):
    write_manifest(open_store(tmp_path), MANIFEST)
    content = json.loads((tmp_path / "manifest.json").read_text())
    assert content["schema"] == 1
    assert content["image_size"] == [128, 256]
    assert content["classes"][0] == {"name": "road", "color": [128, 64, 128], "id": 7, "train_id": 0}
    assert content["splits"]["train"]["shards"] == [
        {"name": SHARD.name, "sha256": "0" * 64, "bytes": 10240, "samples": 3}
    ]
    assert content["skipped"] == [{"source": "train/ü.jpg", "reason": "the photo is broken"}]


@pytest.mark.parametrize("targets", ["images", "none"])
def test_the_former_name_of_targets_is_read(targets):
    without_classes = {"train": Split(3, (), (SHARD,))}
    manifest = dataclasses.replace(MANIFEST, targets=targets, classes=(), splits=without_classes)
    content = manifest.to_json()
    content["truth"] = content.pop("targets")
    assert Manifest.from_json(content) == manifest


def test_no_manifest_says_what_to_run(tmp_path):
    with pytest.raises(NotFoundError, match="vitseg preprocess"):
        read_manifest(str(tmp_path / "nothing"))


def changed(**values):
    return {**MANIFEST.to_json(), **values}


def with_shard(**values):
    shard = {**dataclasses.asdict(SHARD), **values}
    split = {"samples": 3, "pixels_per_class": [0] * 19, "shards": [shard]}
    return changed(splits={"train": split})


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ([], "not a JSON object"),
        (changed(schema=2), "schema 2"),
        ({"schema": 1}, "missing"),
        (changed(image_size=[0, 4]), "positive"),
        (changed(image_size=[4]), "form"),
        (changed(classes=MANIFEST.to_json()["classes"][::-1]), "in order"),
        (changed(classes=[]), "train ids must be"),
        (changed(targets="none", classes=[]), "19 pixel counts for 0 classes"),  # photos alone have no counts
        (changed(targets="sounds"), "targets"),
        (changed(classes=MANIFEST.to_json()["classes"][:1]), "one a train id"),
        (changed(splits={"../x": {"samples": 0, "pixels_per_class": [0] * 19, "shards": []}}), "plain name"),
        (changed(splits={"val": {"samples": 1, "pixels_per_class": [0] * 19, "shards": []}}), "hold 0"),
        (changed(splits={"val": {"samples": 0, "pixels_per_class": [0], "shards": []}}), "1 pixel counts"),
        (changed(splits=[]), "form"),
        (changed(skipped=[{"source": "a"}]), "reason"),
        (with_shard(name="../../etc/passwd"), "plain file name"),
        (with_shard(name="a/b.tar"), "plain file name"),
        (with_shard(sha256="ff"), "sha256"),
        (with_shard(bytes=-1), "bytes"),
        (with_shard(samples=True), "samples"),
        (with_shard(samples=2), "hold 2"),
    ],
)
def test_contradictions_are_refused_with_one_line(content, complaint):
    with pytest.raises(DataError, match=complaint) as caught:
        Manifest.from_json(content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_named_with_its_address(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(DataError, match=r"manifest\.json"):
        read_manifest(str(tmp_path))


def test_a_huge_file_is_not_read(tmp_path):
    with (tmp_path / "manifest.json").open("wb") as file:
        file.truncate(2**40)  # sparse: takes no room
    with pytest.raises(DataError, match="no manifest"):
        read_manifest(str(tmp_path))
