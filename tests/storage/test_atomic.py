"""Files that are written in one step, as a folder's store does it: one winner of many, errors that tell what is wrong."""

import errno
import fcntl
import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vitseg.errors import AccessError, NameTakenError, StorageError, StoreFullError
from vitseg.storage import LocalStore


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.mark.parametrize("if_absent", [False, True])
@pytest.mark.parametrize(
    ("key", "kind", "reason"),
    [
        ("file/below", NameTakenError, "the file .*store/file is in the way"),
        ("file/deep/below", NameTakenError, "the file .*store/file is in the way"),
        ("folder", NameTakenError, "a folder is in the way"),
        ("x" * 300, StorageError, "too long"),
    ],
)
def test_a_key_that_the_folder_can_not_hold(
    store: LocalStore, key: str, kind: type[Exception], reason: str, if_absent: bool
) -> None:
    store.write("file", b"x")
    store.write("folder/file", b"x")
    with pytest.raises(StorageError, match=f"can't write {store.uri(key)}: .*{reason}") as caught:
        store.write(key, b"y", if_absent=if_absent)
    assert type(caught.value) is kind
    assert store.write("file", b"y", if_absent=True) is False
    assert sorted(path.name for path in store.folder.rglob("*")) == ["file", "file", "folder"]


def test_where_the_root_is_a_file_no_key_is_to_blame(tmp_path: Path) -> None:
    (tmp_path / "store").write_bytes(b"x")
    with pytest.raises(StorageError, match="can't write") as caught:
        LocalStore(tmp_path / "store").write("key", b"y")
    assert type(caught.value) is StorageError


def test_a_failed_write_leaves_the_old_content_alone(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("key", b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        store.write("key", b"new")
    assert store.read("key") == b"old"
    assert [path.name for path in store.folder.iterdir()] == ["key"]


@pytest.mark.parametrize(
    ("number", "kind", "advice"),
    [
        (errno.ENOSPC, StoreFullError, "No space left on device: make room there"),
        (errno.EDQUOT, StoreFullError, "Disk quota exceeded: make room there"),
        (errno.EROFS, AccessError, "Read-only file system: let this user write there"),
        (errno.EACCES, AccessError, "Permission denied: let this user write there"),
        (errno.EPERM, AccessError, "Operation not permitted: let this user write there"),
        (errno.EIO, StorageError, "Input/output error"),
    ],
)
@pytest.mark.parametrize("step", ["mkdir", "fsync"])
def test_why_a_folder_can_not_be_written(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, step: str, number: int, kind: type[Exception], advice: str
) -> None:
    def fail(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(kind) as caught:
        store.write("key", b"x")
    assert type(caught.value) is kind
    assert f"can't write {store.uri('key')}: {advice}" in str(caught.value)


def test_parts_of_a_killed_writer_are_not_listed(store: LocalStore) -> None:
    store.write("key", b"x")
    (store.folder / ".vitseg-part-0123").write_bytes(b"half")
    assert [info.key for info in store.list()] == ["key"]


def test_readers_see_the_old_object_or_the_new_one(store: LocalStore) -> None:
    contents = [bytes([number]) * 100_000 for number in range(8)]
    store.write("key", contents[0])
    with ThreadPoolExecutor(4) as pool:
        writes = [pool.submit(store.write, "key", content) for content in contents]
        reads = [pool.submit(store.read, "key") for _ in range(20)]
    assert all(write.result() for write in writes)
    assert {read.result() for read in reads} <= set(contents)


def test_one_of_many_writers_creates_an_object(store: LocalStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: store.write("lock", bytes([n]), if_absent=True), range(8)))
    assert won.count(True) == 1
    assert store.read("lock") == bytes([won.index(True)])
    assert [path.name for path in store.folder.iterdir()] == ["lock"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK])
def test_creation_where_there_are_no_hard_links(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    assert store.write("key", b"first", if_absent=True) is True
    assert store.write("key", b"second", if_absent=True) is False
    assert store.read("key") == b"first"
    store.write("folder/file", b"x")
    with pytest.raises(NameTakenError):
        store.write("folder", b"y", if_absent=True)
    assert sorted(path.name for path in store.folder.rglob("*")) == ["file", "folder", "key"]


def test_other_trouble_with_links_is_no_reason_to_overwrite(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StorageError, match="Input/output error"):
        store.write("key", b"x", if_absent=True)
    assert list(store.folder.iterdir()) == []


def test_a_file_is_written_from_its_start(store: LocalStore) -> None:
    content = bytes(range(256)) * 5000
    file = io.BytesIO(content)
    file.seek(700)
    assert store.write("key", file)
    assert store.write("key", file, if_absent=True) is False
    assert store.write("other", file, if_absent=True)
    assert [store.read(key) for key in ("key", "other")] == [content] * 2


def made_before(store: LocalStore, key: str) -> str:
    """Write an object as an earlier job would have; return its etag."""
    store.write(key, b"the old one")
    os.utime(store.folder / key, ns=(10**18, 10**18))
    info = store.stat(key)
    assert info is not None
    return info.etag


def test_one_of_many_writers_replaces_an_object(store: LocalStore) -> None:
    for _ in range(5):
        etag = made_before(store, "key")
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda n, etag=etag: store.write("key", bytes([n]), if_match=etag), range(8)))
        assert won.count(True) == 1
        assert store.read("key") == bytes([won.index(True)])
    assert [path.name for path in store.folder.iterdir()] == ["key"]


def test_what_is_not_there_is_not_replaced(store: LocalStore) -> None:
    etag = made_before(store, "key")
    store.delete("key")
    assert store.write("key", b"new", if_match=etag) is False
    assert list(store.list()) == []
    store.write("folder/file", b"x")
    with pytest.raises(NameTakenError):
        store.write("folder", b"new", if_match=etag)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF])
def test_replacement_where_there_are_no_locks(store: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    etag = made_before(store, "key")
    assert store.write("key", b"first", if_match=etag) is True
    assert store.write("key", b"second", if_match=etag) is False
    assert store.read("key") == b"first"


def test_a_file_that_only_its_folder_lets_us_replace(store: LocalStore) -> None:
    etag = made_before(store, "key")
    (store.folder / "key").chmod(0o444)
    assert store.write("key", b"new", if_match=etag)
    assert store.read("key") == b"new"
