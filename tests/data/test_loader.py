import io
import threading
import time
from collections import Counter

import numpy as np
import pytest
import torch
import webdataset as wds
from PIL import Image

from tests.data.generated_shards import (
    HEIGHT,
    WIDTH,
    encode,
    label,
    manifest_of,
    photo,
    sample,
    write_data_set,
    write_tar,
)
from tests.data.remote_store import RemoteStore
from vitseg.data import loader as loader_module
from vitseg.data import shard_cache as cache_module
from vitseg.data.loader import Batch, Batches
from vitseg.errors import DataError, UsageError

COUNTS = [9, 4, 7, 1, 8, 6, 3, 12]  # 50 samples: 4 steps of 12, and 2 left


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "set"
    return str(folder), write_data_set(folder, COUNTS)


@pytest.fixture
def batches(data_set):
    def build(**options) -> Batches:
        return Batches(*data_set, "train", **{"batch_size": 12, "seed": 3, "shuffle_shards": 3, **options})

    return build


def joined(batches: list[Batch]) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    images = torch.cat([batch.images for batch in batches])
    labels = torch.cat([batch.labels for batch in batches])
    return images, labels, [key for batch in batches for key in batch.keys]


def assert_equal(one: list[Batch], other: list[Batch]) -> None:
    assert [batch.keys for batch in one] == [batch.keys for batch in other]
    for left, right in zip(one, other, strict=True):
        assert torch.equal(left.images, right.images)
        assert torch.equal(left.labels, right.labels)


@pytest.fixture
def threads_left():
    """Return the threads that were started since the test began, given time to end."""
    before = set(threading.enumerate())

    def left() -> list[threading.Thread]:
        threads = [thread for thread in threading.enumerate() if thread not in before]
        for thread in threads:
            thread.join(5)
        return [thread for thread in threads if thread.is_alive()]

    return left


def test_a_sample_comes_out_as_it_was_written(batches):
    images, labels, keys = joined(list(batches(drop_last=False).epoch(0)))
    assert images.shape == (50, 3, HEIGHT, WIDTH)
    assert images.dtype == labels.dtype == torch.uint8
    assert images.is_contiguous()
    assert sorted(keys) == [f"key{number:03d}" for number in range(50)]
    for image, ids, key in zip(images, labels, keys, strict=True):
        number = int(key.removeprefix("key"))
        expected = np.asarray(Image.open(io.BytesIO(encode(photo(number), "JPEG"))))
        assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)
        assert np.array_equal(ids.numpy(), label(number))


def test_stock_webdataset_sees_the_same_keys(data_set, batches):
    folder, manifest = data_set
    urls = [f"{folder}/{shard.name}" for shard in manifest.splits["train"].shards]
    stock = [row["__key__"] for row in wds.WebDataset(urls, shardshuffle=False)]
    ours = joined(list(batches(shuffle=False, drop_last=False).epoch(0)))[2]
    assert ours == stock


def test_training_takes_whole_batches_and_evaluation_everything(batches):
    training = list(batches().epoch(0))
    assert [len(batch.keys) for batch in training] == [12] * 4 == [12] * batches().steps_per_epoch
    evaluation = batches(drop_last=False, shuffle=False)
    assert [len(batch.keys) for batch in evaluation.epoch(0)] == [12, 12, 12, 12, 2]
    assert evaluation.steps_per_epoch == 5
    assert evaluation.samples == 50


@pytest.mark.parametrize("world_size", [2, 3, 4, 6])
def test_ranks_together_read_what_one_rank_reads(batches, world_size):
    options = {"drop_last": False, "flip": True}
    alone = list(batches(**options).epoch(1))
    ranks = [list(batches(**options, rank=rank, world_size=world_size).epoch(1)) for rank in range(world_size)]
    for step, batch in enumerate(alone):
        parts = [rank[step] for rank in ranks if step < len(rank)]
        images, labels, keys = joined(parts)
        order = [keys.index(key) for key in batch.keys]
        assert sorted(keys) == sorted(batch.keys)
        assert torch.equal(images[order], batch.images)
        assert torch.equal(labels[order], batch.labels)
        if len(batch.keys) == 12:
            assert {len(part.keys) for part in parts} == {12 // world_size}


@pytest.mark.parametrize("rank", [0, 1])
def test_resuming_at_any_step_continues_exactly(batches, rank):
    options = {"flip": True, "rank": rank, "world_size": 2}
    whole = list(batches(**options).epoch(5))
    for step in range(len(whole) + 1):
        assert_equal(list(batches(**options).epoch(5, start_step=step)), whole[step:])


def test_an_epoch_can_be_read_again(batches):
    one = batches(flip=True)
    first = list(one.epoch(0))
    second = list(one.epoch(1))
    assert_equal(list(one.epoch(0)), first)
    assert [batch.keys for batch in first] != [batch.keys for batch in second]


def test_the_number_of_threads_changes_nothing(batches):
    assert_equal(list(batches(flip=True, threads=1).epoch(0)), list(batches(flip=True, threads=5).epoch(0)))


def test_a_flip_mirrors_photo_and_labels_together(batches):
    plain = list(batches().epoch(0))
    flipped = list(batches(flip=True).epoch(0))
    mirrored = 0
    for one, other in zip(plain, flipped, strict=True):
        assert one.keys == other.keys
        for image, ids, image2, ids2 in zip(one.images, one.labels, other.images, other.labels, strict=True):
            if torch.equal(image, image2):
                assert torch.equal(ids, ids2)
            else:
                assert torch.equal(image.flip(2), image2)
                assert torch.equal(ids.flip(1), ids2)
                mirrored += 1
    assert 12 < mirrored < 36


def test_samples_before_the_resumed_step_are_not_read(data_set, tmp_path, monkeypatch):
    folder, manifest = data_set
    store = RemoteStore(tmp_path.parent / folder, tmp_path / "log")
    monkeypatch.setattr(cache_module, "open_store", lambda address: store)
    options = {"batch_size": 12, "shuffle": False, "cache": tmp_path / "cache"}
    list(Batches(store.root, manifest, "train", **options).epoch(0, start_step=3))
    # Step 3 is samples 36 to 47: the last of shard 6 (35 to 37) and the first of shard 7.
    assert sorted(store.reads()) == [manifest.splits["train"].shards[index].name for index in (6, 7)]


def test_each_remote_shard_is_read_once_an_epoch_and_not_all_at_once(data_set, tmp_path, monkeypatch):
    folder, manifest = data_set
    store = RemoteStore(tmp_path.parent / folder, tmp_path / "log")
    monkeypatch.setattr(cache_module, "open_store", lambda address: store)
    options = {"batch_size": 1, "shuffle_shards": 1, "cache": tmp_path / "cache", "shuffle": False}
    epoch = Batches(store.root, manifest, "train", **options).epoch(0)
    next(epoch)
    time.sleep(0.2)
    assert set(store.reads()) <= {shard.name for shard in manifest.splits["train"].shards[:2]}
    assert len(list(epoch)) == 49
    assert set(Counter(store.reads()).values()) == {1}
    assert len(store.reads()) == len(COUNTS)


def test_decoding_stays_a_few_batches_ahead(batches, monkeypatch):
    decoded = []
    decode = loader_module._decode
    monkeypatch.setattr(loader_module, "_decode", lambda *all_: decoded.append(1) or decode(*all_))
    epoch = batches(batch_size=2).epoch(0)
    next(epoch)
    time.sleep(0.2)
    assert 2 <= len(decoded) <= 2 * loader_module._BATCHES_AHEAD
    epoch.close()


def test_closing_early_ends_all_threads_without_waiting_for_downloads(data_set, tmp_path, monkeypatch, threads_left):
    folder, manifest = data_set
    store = RemoteStore(tmp_path.parent / folder, tmp_path / "log")
    first, read, server_answers = manifest.splits["train"].shards[0].name, store.read, threading.Event()
    store.read = lambda key: (key == first or server_answers.wait(60)) and read(key)
    monkeypatch.setattr(cache_module, "open_store", lambda address: store)
    options = {"batch_size": 2, "shuffle": False, "cache": tmp_path / "cache"}
    epoch = Batches(store.root, manifest, "train", **options).epoch(0)
    next(epoch)
    epoch.close()
    assert not server_answers.is_set()
    server_answers.set()
    assert threads_left() == []


def test_files_are_closed_at_the_end_and_after_an_early_close(batches, monkeypatch, threads_left):
    opened = []
    cache_open = cache_module.ShardCache.open
    monkeypatch.setattr(cache_module.ShardCache, "open", lambda *all_: opened.append(cache_open(*all_)) or opened[-1])
    for stop in (1, 2, 99):
        epoch = batches().epoch(0)
        for _, _batch in zip(range(stop), epoch, strict=False):
            pass
        epoch.close()
        assert threads_left() == []
    assert len(opened) > len(COUNTS)
    assert all(file.closed for file in opened)


def test_shards_that_are_done_with_are_closed_during_the_epoch(batches, monkeypatch):
    opened = []
    cache_open = cache_module.ShardCache.open
    monkeypatch.setattr(cache_module.ShardCache, "open", lambda *all_: opened.append(cache_open(*all_)) or opened[-1])
    most = 0
    for _ in batches(batch_size=1, shuffle=False, shuffle_shards=1).epoch(0):
        most = max(most, sum(not file.closed for file in opened))
    assert most <= 4  # of 8: three batches ahead may touch three shards, and one more is opened ahead


def test_a_corrupt_shard_stops_the_epoch_and_is_named(tmp_path, threads_left):
    manifest = write_data_set(tmp_path / "set", COUNTS)
    name = manifest.splits["train"].shards[4].name
    path = tmp_path / "set" / name
    data = bytearray(path.read_bytes())
    data[3000] ^= 1
    path.write_bytes(data)
    epoch = Batches(str(tmp_path / "set"), manifest, "train", batch_size=5).epoch(0)
    with pytest.raises(DataError, match=f"{name} is corrupt"):
        list(epoch)
    assert threads_left() == []


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"jpg": encode(photo(0)[:8], "JPEG")}, "JPEG is 24x8 RGB, not 24x16 RGB"),
        ({"png": encode(label(0)[:, :8], "PNG")}, "PNG is 8x16 L, not 24x16 L"),
        ({"png": encode(photo(0), "PNG")}, "PNG is 24x16 RGB, not 24x16 L"),
        ({"jpg": encode(photo(0), "PNG")}, "cannot identify"),
        ({"jpg": encode(photo(0), "JPEG")[:-100]}, "Premature end of JPEG file"),
        ({"png": encode(label(0), "PNG")[:60]}, "cut off"),
        ({"jpg": b""}, "cannot identify"),
    ],
)
def test_a_sample_that_is_no_such_picture_is_named(tmp_path, members, reason):
    shard = write_tar(tmp_path / "a.tar", [sample(0), sample(1, **members)])
    epoch = Batches(str(tmp_path), manifest_of([shard]), "train", batch_size=2).epoch(0)
    with pytest.raises(DataError, match=rf"a\.tar: sample 'key001' can't be decoded: .*{reason}"):
        next(epoch)


def test_settings_that_cannot_work_are_refused_at_once(batches, data_set):
    with pytest.raises(UsageError, match=r"50 samples, not even one batch of 51: lower data\.batch_size"):
        batches(batch_size=51)
    with pytest.raises(UsageError, match="multiple of 5"):
        batches(world_size=5)
    with pytest.raises(UsageError, match="no split 'valid': choose train"):
        Batches(*data_set, "valid", batch_size=1)
    with pytest.raises(UsageError, match="step 5 is not in an epoch of 4 steps"):
        batches().epoch(0, start_step=5)


def test_a_small_or_empty_split_can_be_evaluated(tmp_path):
    few = write_data_set(tmp_path / "few", [3])
    options = {"batch_size": 8, "world_size": 4, "drop_last": False}
    ranks = [list(Batches(str(tmp_path / "few"), few, "train", **options, rank=rank).epoch(0)) for rank in range(4)]
    assert [[len(batch.keys) for batch in rank] for rank in ranks] == [[1], [1], [1], []]
    none = manifest_of([])
    assert list(Batches(str(tmp_path), none, "train", batch_size=8, drop_last=False).epoch(0)) == []
