import multiprocessing
import os
import time
from pathlib import Path

import pytest

from tests.data.generated_shards import write_data_set
from tests.data.remote_store import RemoteStore, content, read_all
from vitseg.data import shard_cache as cache_module
from vitseg.data.shard_cache import ShardCache
from vitseg.errors import DataError, StorageError, UsageError
from vitseg.storage.atomic import PART


@pytest.fixture
def shards(tmp_path):
    """Three shards in a folder, and what the manifest says about them."""
    return write_data_set(tmp_path / "set", [2, 2, 2]).splits["train"].shards


@pytest.fixture
def remote(tmp_path, monkeypatch, shards):
    """Build a cache over a store that is not a folder."""
    monkeypatch.setattr(cache_module, "_DELAY_S", 0.001)

    def build(**trouble: float) -> tuple[ShardCache, RemoteStore]:
        store = RemoteStore(tmp_path / "set", tmp_path / "log", **trouble)
        monkeypatch.setattr(cache_module, "open_store", lambda address: store)
        return ShardCache(store.root, tmp_path / "cache"), store

    return build


def cached(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").iterdir())


def test_a_folder_is_read_in_place(tmp_path, shards, monkeypatch):
    monkeypatch.setenv("VITSEG_HOME", str(tmp_path / "home"))
    cache = ShardCache(str(tmp_path / "set"))
    assert content(cache, shards[0]) == (tmp_path / "set" / shards[0].name).read_bytes()
    assert not (tmp_path / "home").exists()


def test_a_changed_file_in_a_folder_is_named(tmp_path, shards):
    path = tmp_path / "set" / shards[1].name
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"x")
    with pytest.raises(DataError, match=rf"{shards[1].name} is corrupt"):
        ShardCache(str(tmp_path / "set")).open(shards[1])
    path.write_bytes(data[:-1])
    with pytest.raises(DataError, match=rf"{shards[1].name} is corrupt"):
        ShardCache(str(tmp_path / "set")).open(shards[1])
    path.unlink()
    with pytest.raises(DataError, match=rf"{shards[1].name} .*does not exist"):
        ShardCache(str(tmp_path / "set")).open(shards[1])


def test_a_remote_shard_is_downloaded_once(tmp_path, shards, remote):
    cache, store = remote()
    for _ in range(2):
        assert content(cache, shards[0]) == (tmp_path / "set" / shards[0].name).read_bytes()
    again, _ = remote()
    content(again, shards[0])
    assert store.reads() == [shards[0].name]
    assert cached(tmp_path) == [f"{shards[0].sha256}.tar"]  # no part or lock files are left


def test_shards_of_one_name_do_not_collide(tmp_path, shards, remote):
    cache, store = remote()
    content(cache, shards[0])
    other = write_data_set(tmp_path / "other", [3]).splits["train"].shards[0]
    assert other.name == shards[0].name
    cache, store = remote()
    store.folder = tmp_path / "other"
    assert content(cache, other) == (tmp_path / "other" / other.name).read_bytes()


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-1] + b"x", lambda data: b""])
def test_a_damaged_cached_file_is_fetched_again(tmp_path, shards, remote, damage):
    cache, store = remote()
    data = content(cache, shards[0])
    path = tmp_path / "cache" / f"{shards[0].sha256}.tar"
    path.write_bytes(damage(data))
    cache, _ = remote()
    assert content(cache, shards[0]) == data == path.read_bytes()
    assert len(store.reads()) == 2


def test_a_cached_file_that_shrinks_during_a_run_is_noticed(tmp_path, shards, remote):
    cache, store = remote()
    data = content(cache, shards[0])
    os.truncate(tmp_path / "cache" / f"{shards[0].sha256}.tar", 100)
    assert content(cache, shards[0]) == data
    assert len(store.reads()) == 2


def test_short_trouble_of_the_store_is_survived(shards, remote):
    for trouble in ({"failures": 2}, {"cut": 2}):
        cache, store = remote(**trouble)
        content(cache, shards[0])
        assert len(store.reads()) == 3
        store.log.unlink()
        next(iter(cache._folder.iterdir())).unlink()


def test_lasting_trouble_of_the_store_is_told(shards, remote):
    cache, store = remote(failures=99)
    with pytest.raises(StorageError, match=rf"{shards[0].name}: SlowDown"):
        cache.open(shards[0])
    assert len(store.reads()) == 3


def test_a_corrupt_remote_shard_is_named_and_not_kept(tmp_path, shards, remote):
    cache, _ = remote(cut=99)
    with pytest.raises(DataError, match=rf"s3://bucket/set/{shards[0].name} is corrupt"):
        cache.open(shards[0])
    assert cached(tmp_path) == []


def test_a_missing_remote_shard_is_named(tmp_path, shards, remote):
    cache, store = remote()
    (tmp_path / "set" / shards[2].name).unlink()
    with pytest.raises(DataError, match=rf"{shards[2].name} .*does not exist"):
        cache.open(shards[2])
    assert len(store.reads()) == 1


def test_the_least_recently_used_goes_first(tmp_path, shards, remote, monkeypatch):
    monkeypatch.setenv("VITSEG_CACHE_GB", str(2.5 * shards[0].bytes / 1e9))
    cache, store = remote()
    for index in (0, 1, 0, 2):
        content(cache, shards[index])
        time.sleep(0.02)  # file times have a grain
    assert cached(tmp_path) == sorted(f"{shards[index].sha256}.tar" for index in (0, 2))
    content(cache, shards[1])  # and it comes back when it is needed
    assert store.reads() == [shards[index].name for index in (0, 1, 2, 1)]


def test_what_is_in_use_stays(tmp_path, shards, remote, monkeypatch):
    monkeypatch.setenv("VITSEG_CACHE_GB", "0")
    cache, _ = remote()
    with cache.open(shards[0]):
        other, _ = remote()  # as another data set, or another process, would have
        content(other, shards[1])
        content(other, shards[2])
        assert cached(tmp_path) == sorted(f"{shards[index].sha256}.tar" for index in (0, 2))


def test_a_file_removed_while_open_stays_readable(tmp_path, shards, remote):
    cache, _ = remote()
    with cache.open(shards[0]) as file:
        (tmp_path / "cache" / f"{shards[0].sha256}.tar").unlink()
        assert len(os.pread(file.fileno(), shards[0].bytes, 0)) == shards[0].bytes


def test_parts_of_dead_processes_are_cleared_away(tmp_path, shards, remote):
    cache, _ = remote()
    old, young = tmp_path / "cache" / f"{PART}old", tmp_path / "cache" / f"{PART}young"
    old.parent.mkdir()
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    content(cache, shards[0])
    assert cached(tmp_path) == sorted([f"{shards[0].sha256}.tar", f"{PART}young"])


@pytest.mark.parametrize("text", ["much", "-1", "inf", "nan"])
def test_a_limit_that_is_no_size_is_refused(tmp_path, monkeypatch, text):
    monkeypatch.setenv("VITSEG_CACHE_GB", text)
    with pytest.raises(UsageError, match="VITSEG_CACHE_GB"):
        ShardCache(str(tmp_path))


def test_a_cache_that_cannot_be_written_says_what_to_do(tmp_path, shards, remote):
    (tmp_path / "cache").write_text("a file is in the way")
    cache, _ = remote()
    with pytest.raises(StorageError, match="VITSEG_HOME"):
        cache.open(shards[0])


@pytest.mark.parametrize("limit", ["50", "0"])  # 0: each process removes what the others leave
def test_processes_share_downloads_and_never_see_half_a_file(tmp_path, shards, monkeypatch, limit):
    monkeypatch.setenv("VITSEG_CACHE_GB", limit)
    context = multiprocessing.get_context("spawn")
    start, results = context.Event(), context.Queue()
    processes = [context.Process(target=read_all, args=(tmp_path, shards, start, results)) for _ in range(3)]
    for process in processes:
        process.start()
    time.sleep(1.0)  # let them all come to the start line
    start.set()
    assert [results.get(timeout=60) for _ in processes] == [True] * 3
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    if limit == "50":
        assert sorted((tmp_path / "log").read_text().split()) == [shard.name for shard in shards]
        assert cached(tmp_path) == sorted(f"{shard.sha256}.tar" for shard in shards)
