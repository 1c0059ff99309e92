import errno
import os
import socket
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitseg.errors import NotFoundError, StorageError
from vitseg.storage import LocalStore, ObjectInfo, content_md5, local, open_store

KEYS = ["a b.png", "plain", "sub/deep/雪.jpg", "sub/x%20y"]


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def keys(store: LocalStore, prefix: str = "") -> list[str]:
    return sorted(info.key for info in store.list(prefix))


def test_a_folder_gives_back_what_was_written(store: LocalStore) -> None:
    assert keys(store) == []
    for key in KEYS:
        assert store.write(key, key.encode(), metadata={"ignored": "1"}, content_type="image/png")
    assert keys(store) == sorted(KEYS)
    assert [store.read(key).decode() for key in KEYS] == KEYS
    assert all(store.stat(info.key) == info and info.size == len(info.key.encode()) for info in store.list())
    assert keys(store, "sub/d") == ["sub/deep/雪.jpg"]
    assert keys(store, "p") == ["plain"]
    assert store.metadata("plain") == {}
    store.delete("plain")
    assert store.stat("plain") is None
    assert "plain" not in keys(store)


def test_a_new_content_has_a_new_etag(store: LocalStore) -> None:
    store.write("key", b"one")
    first = store.stat("key")
    store.write("key", b"two")
    assert store.read("key") == b"two"
    assert store.stat("key") != first


def test_what_is_not_there(store: LocalStore) -> None:
    store.write("file", b"x")
    for key in ("gone", "gone/deeper", "file/below"):
        assert store.stat(key) is None
        with pytest.raises(NotFoundError, match=store.uri(key)):
            store.read(key)
        store.delete(key)
    store.write("folder/file", b"x")
    assert store.stat("folder") is None
    with pytest.raises(NotFoundError):
        store.read("folder")


def test_the_start_of_a_file(store: LocalStore) -> None:
    for key, data in {"long": b"0123456789", "short": b"01", "empty": b""}.items():
        store.write(key, data)
        assert store.read_start(key, 4) == data[:4]
    store.write("folder/file", b"x")
    for key in ("gone", "long/below", "folder"):
        with pytest.raises(NotFoundError, match=store.uri(key)):
            store.read_start(key, 4)
    with pytest.raises(StorageError, match="can't read"):
        store.read_start("x" * 300, 4)


@pytest.mark.parametrize("key", ["../outside", "a/../../outside", "/etc/hostname", "a//b", "a/./b", "a/", "", "a\0b"])
def test_no_key_names_another_place(store: LocalStore, key: str) -> None:
    for call in (store.read, store.stat, store.delete, lambda name: store.write(name, b"x")):
        with pytest.raises(StorageError, match="can't be a path"):
            call(key)
    assert not (store.folder.parent / "outside").exists()


def test_the_etag_is_of_the_content_that_was_read(store: LocalStore) -> None:
    store.write("key", b"listed")
    (listed,) = store.list()
    assert store.read_tagged("key") == (b"listed", listed.etag)
    store.write("key", b"changed since")
    data, etag = store.read_tagged("key")
    (now,) = store.list()
    assert (data, etag) == (b"changed since", now.etag)
    assert etag != listed.etag


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_file_that_changes_while_it_is_read(store: LocalStore, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    store.write("key", b"a")
    path, real, calls = store.folder / "key", os.fstat, []

    def fstat(descriptor: int) -> os.stat_result:
        status = real(descriptor)
        calls.append(descriptor)
        if len(calls) % 2 and len(calls) < 2 * times:  # between the two of a reading
            with path.open("ab") as file:
                file.write(b"b")
        return status

    monkeypatch.setattr(local.os, "fstat", fstat)
    monkeypatch.setattr(local, "_PAUSES", (0.0, 0.0, 0.0))
    if times == 3:
        with pytest.raises(StorageError, match=r"key changes while it is read: try again"):
            store.read_tagged("key")
    else:
        data, etag = store.read_tagged("key")
        (info,) = store.list()
        assert (data, etag) == (b"a" + times * b"b", info.etag)


def test_trouble_with_a_file_is_a_storage_error(store: LocalStore) -> None:
    store.write("folder/file", b"x")
    for call in (lambda: store.stat("x" * 300), lambda: store.read("x" * 300), lambda: store.delete("folder")):
        with pytest.raises(StorageError):
            call()


def test_a_folder_that_can_not_be_opened_is_not_left_out(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("open/a", b"x")
    store.write("shut/b", b"x")
    real = os.scandir

    def scandir(path: str) -> object:  # root may open everything
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(StorageError, match=r"can't list .*shut: Permission denied"):
        keys(store)


def test_one_file_that_can_not_be_read_is_no_matter_of_access(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write("key", b"x")

    def refuse(path: Path, *args: object) -> None:  # root may read everything
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(StorageError, match=r"can't read .*key: Permission denied"):
        store.read("key")


def test_a_link_is_a_folder_with_names_of_its_own(store: LocalStore, tmp_path: Path) -> None:
    store.write("real/file", b"x")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "photo").write_bytes(b"y")
    (store.folder / "linked").symlink_to(tmp_path / "elsewhere")
    (store.folder / "again").symlink_to(tmp_path / "elsewhere")
    (store.folder / "sibling").symlink_to("real")
    (store.folder / "single").symlink_to("real/file")
    assert keys(store) == ["again/photo", "linked/photo", "real/file", "sibling/file", "single"]
    assert keys(store, "sib") == ["sibling/file"]
    assert store.read("sibling/file") == b"x"


def test_a_link_to_a_folder_that_it_lies_in_is_not_followed(store: LocalStore, tmp_path: Path) -> None:
    store.write("a/file", b"x")
    store.write("b/file", b"y")
    (store.folder / "a" / "self").symlink_to(store.folder / "a")
    (store.folder / "a" / "up").symlink_to("..")
    (store.folder / "above").symlink_to(tmp_path)
    (store.folder / "a" / "to-b").symlink_to("../b")
    (store.folder / "b" / "to-a").symlink_to("../a")
    (store.folder / "top").symlink_to("/")
    assert keys(store) == ["a/file", "a/to-b/file", "b/file", "b/to-a/file"]
    assert keys(LocalStore(store.folder / "a" / "to-b"), "to-a/") == ["to-a/file"]


def test_what_can_not_be_read_is_listed_and_tells_why(store: LocalStore, tmp_path: Path) -> None:
    store.write("file", b"x")
    os.mkfifo(store.folder / "pipe")  # whoever opens it waits for ever
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(store.folder / "socket"))
    (store.folder / "itself").symlink_to("itself")
    (store.folder / "dangling").symlink_to(tmp_path / "nowhere")
    assert keys(store) == ["dangling", "file", "itself", "pipe", "socket"]
    reasons = {
        "dangling": "a link to .*nowhere, which is missing",
        "hidden": "Permission denied",
        "itself": "symbolic links",
    }
    for key in ("dangling", "itself", "pipe", "socket"):
        for call in (
            store.read,
            lambda name: store.read_start(name, 4),
            lambda name: store.md5(ObjectInfo(name, 0, "")),
        ):
            with pytest.raises(StorageError, match=reasons.get(key, "no file but a pipe, socket or device")):
                call(key)


@given(st.lists(st.binary(min_size=1, max_size=12), min_size=1, max_size=8, unique=True))
def test_every_name_is_an_object(tmp_path_factory: pytest.TempPathFactory, names: list[bytes]) -> None:
    names = [name.replace(b"/", b"\\").replace(b"\0", b"\n") for name in [*names, b".a", b" #?%20", b"\xff"]]
    folder = tmp_path_factory.mktemp("names")
    written = {os.fsdecode(name) for name in names if name not in (b".", b"..")}
    for name in written:
        (folder / name).write_bytes(os.fsencode(name))
    store = LocalStore(folder)
    assert {info.key for info in store.list()} == written
    assert all(store.read(name) == os.fsencode(name) for name in written)


@given(st.binary(max_size=100))
def test_equal_content_has_an_equal_md5_in_every_store(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = LocalStore(tmp_path_factory.getbasetemp() / "md5")
    folder.write("key", data)
    fsspec.filesystem("memory").pipe_file("/md5/key", data)
    stores = (folder, open_store("memory://md5"))
    assert {store.md5(info) for store in stores for info in store.list()} == {content_md5(data)}


def test_a_file_that_vanished_has_no_md5(store: LocalStore) -> None:
    store.write("key", b"x")
    (info,) = store.list()
    store.delete("key")
    with pytest.raises(StorageError, match="No such file"):
        store.md5(info)
