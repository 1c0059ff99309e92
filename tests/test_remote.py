"""Any address that fsspec can read, as a store."""

import functools
import os
import secrets
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from vitseg.errors import NotFoundError, UsageError
from vitseg.remote import FsspecStore
from vitseg.storage import open_store

KEYS = ["a b.png", "plain", "sub/deep/雪.jpg", "sub/x%20y"]


@pytest.fixture
def memory() -> FsspecStore:
    """Return a read-only store that holds KEYS, each with its own name as content."""
    bucket = f"bucket-{secrets.token_hex(4)}"
    for key in [*KEYS, "x"]:
        folder = "photos" if key in KEYS else "photos-of-others"
        fsspec.filesystem("memory").pipe_file(f"/{bucket}/{folder}/{key}", key.encode())
    address = f"memory://{bucket}/photos"
    opened = open_store(address)
    assert isinstance(opened, FsspecStore)
    return opened


def keys(store: FsspecStore, prefix: str = "") -> list[str]:
    return sorted(info.key for info in store.list(prefix))


def test_an_fsspec_address_is_listed_and_read(memory: FsspecStore) -> None:
    assert keys(memory) == sorted(KEYS)
    assert keys(memory, "sub/d") == ["sub/deep/雪.jpg"]
    assert [memory.read(key).decode() for key in KEYS] == KEYS
    assert all(memory.stat(info.key) == info and info.size == len(info.key.encode()) for info in memory.list())
    assert memory.uri("plain") == f"{memory.root}/plain"
    assert memory.metadata("plain") == {}


def test_the_etag_of_an_fsspec_object_is_the_one_of_its_listing(
    memory: FsspecStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all(memory.read_tagged(info.key) == (info.key.encode(), info.etag) for info in memory.list())
    # Most file systems remember what they listed, until they are told to forget it.
    tag, rows = "old", {}
    info = memory._fs.info

    def remembered(path: str) -> dict[str, object]:
        return rows.setdefault(path, {**info(path), "ETag": tag})

    monkeypatch.setattr(memory._fs, "info", remembered)
    monkeypatch.setattr(memory._fs, "invalidate_cache", lambda path: rows.pop(path))
    assert memory.stat("plain").etag == "old"
    tag = "new"
    assert memory.read_tagged("plain") == (b"plain", "new")


def test_a_web_server_that_lists_names_alone(tmp_path: Path) -> None:
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    contents = {"a.txt": b"one", "sub/b.txt": b"two, longer"}
    for key, content in contents.items():
        (tmp_path / "photos" / key).write_bytes(content)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        store = open_store(f"http://127.0.0.1:{server.server_address[1]}/photos/")
        listed = list(store.list())
        assert {info.key: info.size for info in listed} == {key: len(data) for key, data in contents.items()}
        assert [store.read_tagged(info.key) for info in listed] == [(contents[i.key], i.etag) for i in listed]
        assert [store.stat(info.key) for info in listed] == listed
        os.utime(tmp_path / "photos" / "a.txt", (1e9, 1e9))
        (changed,) = store.list("a")
        assert (changed.size, changed.etag != listed[0].etag) == (3, True)
        server.shutdown()


def test_what_is_not_behind_an_fsspec_address(memory: FsspecStore) -> None:
    assert memory.stat("gone") is None
    with pytest.raises(NotFoundError, match=memory.uri("gone")):
        memory.read("gone")
    assert list(open_store("memory://nobody-was-here").list()) == []


def test_an_fsspec_address_is_never_written_to(memory: FsspecStore) -> None:
    with pytest.raises(UsageError, match="write to a folder or to s3://"):
        memory.write("key", b"x")
    with pytest.raises(UsageError, match="can only be read"):
        memory.delete("plain")
    assert keys(memory) == sorted(KEYS)
