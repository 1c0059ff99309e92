"""Features beside shards: written whole, found again, read with the photographs that they belong to."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.generated_shards import write_data_set
from tests.memory_s3 import memory_s3
from vitseg.data.features import MIRRORED, PHOTOS, Features
from vitseg.data.loader import Batches
from vitseg.data.manifest import Manifest
from vitseg.errors import DataError

SHAPE = (3, 4)
VIEWS = (PHOTOS, MIRRORED)


def tokens_of(key: str, view: str) -> np.ndarray:
    """Return tokens (N, E) that tell which photograph they are of."""
    digits = np.frombuffer(key.encode().rjust(12), np.uint8).reshape(SHAPE)
    return (digits + (100 if view == MIRRORED else 0)).astype(np.float16)


def write_all(features: Features, folder: Path, manifest: Manifest, keys: dict[str, list[str]]) -> None:
    for shard in manifest.splits["train"].shards:
        for view in VIEWS:
            path = folder / "features"
            path.write_bytes(np.stack([tokens_of(key, view) for key in keys[shard.name]]).tobytes())
            features.write(shard, view, path)
    features.find()


def keys_of(shards: str, manifest: Manifest) -> dict[str, list[str]]:
    """Return the keys of each shard in its order."""
    batches = Batches(shards, manifest, "train", batch_size=1, shuffle=False)
    order = iter([batch.keys[0] for batch in batches.epoch(0)])
    return {shard.name: [next(order) for _ in range(shard.samples)] for shard in manifest.splits["train"].shards}


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Manifest]:
    folder = tmp_path_factory.mktemp("data") / "set"
    return str(folder), write_data_set(folder, [5, 3, 4])


@pytest.mark.parametrize("world_size", [1, 2])
def test_each_photograph_comes_with_its_own_tokens_mirrored_or_not(
    data_set: tuple[str, Manifest], tmp_path: Path, world_size: int
) -> None:
    shards, manifest = data_set
    features = Features(shards, f"digest{world_size}", SHAPE)
    write_all(features, tmp_path, manifest, keys_of(shards, manifest))
    again = Features(shards, f"digest{world_size}", SHAPE)
    assert [again.missing(shard, VIEWS) for shard in manifest.splits["train"].shards] == [[]] * 3
    seen = set()
    for rank in range(world_size):
        options = {"batch_size": 4, "rank": rank, "world_size": world_size, "seed": 1}
        with_them = Batches(shards, manifest, "train", flip=True, features=again, **options)
        plain = Batches(shards, manifest, "train", flip=False, **options)
        for batch, straight in zip(with_them.epoch(2), plain.epoch(2), strict=True):
            assert batch.tokens is not None
            assert batch.keys == straight.keys
            for key, tokens, image, other in zip(batch.keys, batch.tokens, batch.images, straight.images, strict=True):
                view = PHOTOS if torch.equal(image, other) else MIRRORED
                assert np.array_equal(tokens.numpy(), tokens_of(key, view))
                seen.add((key, view))
    assert len(seen) == 12
    assert {view for _, view in seen} == set(VIEWS)


def test_what_is_missing_is_known_by_shard_and_view(data_set: tuple[str, Manifest], tmp_path: Path) -> None:
    shards, manifest = data_set
    first, second, _ = manifest.splits["train"].shards
    features = Features(shards, "partly", SHAPE)
    path = tmp_path / "features"
    path.write_bytes(bytes(features.bytes(first.samples)))
    features.write(first, PHOTOS, path)
    assert features.missing(first, VIEWS) == [PHOTOS, MIRRORED]  # it has not looked
    features.find()
    assert features.missing(first, VIEWS) == [MIRRORED]
    assert features.missing(second, VIEWS) == [PHOTOS, MIRRORED]
    [written] = Path(features.folder).iterdir()
    assert re.fullmatch(rf"{first.sha256[:16]}-photos-[0-9a-f]{{64}}\.f16", written.name)


@pytest.mark.parametrize("damage", ["content", "length", "gone"])
def test_damaged_features_are_told_with_the_folder_to_remove(
    data_set: tuple[str, Manifest], tmp_path: Path, damage: str
) -> None:
    shards, manifest = data_set
    features = Features(shards, damage, SHAPE)
    write_all(features, tmp_path, manifest, keys_of(shards, manifest))
    for path in Path(features.folder).iterdir():
        content = path.read_bytes()
        path.unlink()
        if damage != "gone":
            path.write_bytes(content[:-1] + b"x" if damage == "content" else content[: features.bytes(1)])
    if damage == "length":
        features.find()
    with pytest.raises(DataError, match=f"features in .*/{damage} are damaged: remove that folder"):
        next(Batches(shards, manifest, "train", batch_size=4, features=features).epoch(0))


def test_features_in_a_bucket_are_read_through_the_cache(
    data_set: tuple[str, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITSEG_HOME", str(tmp_path / "home"))
    folder, manifest = data_set
    with memory_s3() as server:
        for shard in manifest.splits["train"].shards:
            server.objects[f"set/{shard.name}"] = (Path(folder, shard.name).read_bytes(), "0")
        shards = "s3://bucket/set"
        features = Features(shards, "digest", SHAPE)
        write_all(features, tmp_path, manifest, keys_of(folder, manifest))
        assert len([key for key in server.objects if key.startswith("set/_vitseg/features/digest/")]) == 6
        batches = Batches(shards, manifest, "train", batch_size=4, features=Features(shards, "digest", SHAPE))
        for _ in range(2):
            for batch in batches.epoch(0):
                assert batch.tokens is not None
                assert np.array_equal(batch.tokens[1].numpy(), tokens_of(batch.keys[1], PHOTOS))
        assert server.requests["GET"] == 6  # each shard and its features once
