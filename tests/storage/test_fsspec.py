"""Any address that fsspec can read, as a store."""

import functools
import os
import secrets
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from vitseg.errors import NotFoundError, StorageError, UsageError
from vitseg.inference.plan import list_source
from vitseg.storage import open_store
from vitseg.storage.fsspec import FsspecStore

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


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """Serve the test's folder; it answers 403 to names with `shut`, and knows no ranges."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            if "shut" in self.path:
                self.send_error(403)
            else:
                super().do_GET()

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_web_server_that_lists_names_alone(web: str, tmp_path: Path) -> None:
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    contents = {"a.txt": b"one", "sub/b.txt": b"two, longer"}
    for key, content in contents.items():
        (tmp_path / "photos" / key).write_bytes(content)
    store = open_store(f"{web}/photos/")
    listed = list(store.list())
    assert {info.key: info.size for info in listed} == {key: len(data) for key, data in contents.items()}
    assert [store.read_tagged(info.key) for info in listed] == [(contents[i.key], i.etag) for i in listed]
    assert [store.stat(info.key) for info in listed] == listed
    assert [store.read_start(info.key, 2) for info in listed] == [b"on", b"tw"]
    os.utime(tmp_path / "photos" / "a.txt", (1e9, 1e9))
    (changed,) = store.list("a")
    assert (changed.size, changed.etag != listed[0].etag) == (3, True)


def test_links_to_other_places_are_no_objects(web: str, tmp_path: Path) -> None:
    (tmp_path / "set" / "sub").mkdir(parents=True)
    links = [
        "/",
        "?C=N;O=D",
        "/set/a.jpg",
        "/set/a.jpg#x",
        "./c.jpg",
        "../other.jpg",
        "sub/../../other.jpg",
        "/set/sub/",
        "../",
        "/other.jpg",
        "/settings/x.jpg",
        "http://127.0.0.1:9/set/far.jpg",
    ]
    (tmp_path / "set" / "index.html").write_text("".join(f"<a href='{link}'>x</a>" for link in links))
    for name in ("set/a.jpg", "set/c.jpg", "set/sub/b.jpg", "other.jpg", "settings-x.jpg"):
        (tmp_path / name).write_bytes(b"x")
    assert keys(open_store(f"{web}/set")) == ["a.jpg", "c.jpg", "sub/b.jpg"]


def test_what_a_web_server_refuses_is_a_storage_error(web: str, tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir()
    (tmp_path / "shut" / "a").write_bytes(b"x")
    store = open_store(web)
    for call in (lambda: list(store.list()), lambda: store.read("shut/a"), lambda: store.read_start("shut/a", 4)):
        with pytest.raises(StorageError, match="403") as caught:
            call()
        assert len(str(caught.value).splitlines()) == 1


def test_one_file_and_an_empty_folder_as_source(web: str, tmp_path: Path, memory: FsspecStore) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "one.txt").write_bytes(b"one")
    for folder, name, size in ((web, "one.txt", 3), (memory.root, "plain", 5)):
        assert list(open_store(f"{folder}/{name}").list()) == []
        root, objects = list_source(f"{folder}/{name}", "/masks")
        assert (root, [(info.key, info.size) for info in objects]) == (folder, [(name, size)])
    assert list(open_store(f"{web}/empty").list()) == []
    with pytest.raises(NotFoundError, match="empty does not exist"):
        list_source(f"{web}/empty", "/masks")


def test_a_listing_asks_for_few_objects_before_it_gives_the_first(
    web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos" / "later").mkdir(parents=True)
    for number in range(500):
        (tmp_path / "photos" / f"{number:03}").write_bytes(b"x" * number)
    (tmp_path / "photos" / "later" / "last").write_bytes(b"x")
    store = FsspecStore(f"{web}/photos")
    asked, listed, info, ls = [], [], store._fs.info, store._fs.ls
    monkeypatch.setattr(store._fs, "info", lambda path: asked.append(path) or info(path))
    monkeypatch.setattr(store._fs, "ls", lambda path, **options: listed.append(path) or ls(path, **options))
    listing = store.list()
    first = next(listing)
    assert (first.key, first.size, len(listed)) == ("000", 0, 1)
    assert len(asked) <= 256
    assert [info.key for info in listing] == [f"{number:03}" for number in range(1, 500)] + ["later/last"]
    assert (len(asked), len(listed)) == (501, 2)
    assert [info.key for info in store.list("later/l")] == ["later/last"]
    assert (len(asked), len(listed)) == (502, 4)
    assert [info.key for info in store.list("49")] == [f"{number:03}" for number in range(490, 500)]
    assert (len(asked), len(listed)) == (512, 5)


def test_the_start_of_an_fsspec_object(memory: FsspecStore, monkeypatch: pytest.MonkeyPatch) -> None:
    memory._fs.pipe_file(f"{memory._path}/empty", b"")
    assert [memory.read_start(key, 5) for key in ("plain", "a b.png", "empty")] == [b"plain", b"a b.p", b""]
    assert memory.read_start("plain", 100) == b"plain"
    with pytest.raises(NotFoundError, match=memory.uri("gone")):
        memory.read_start("gone", 4)

    def unsatisfiable(path: str, **limits: int) -> bytes:
        raise OSError(f"416: {path}")

    monkeypatch.setattr(memory._fs, "cat_file", unsatisfiable)
    assert memory.read_start("empty", 4) == b""
    with pytest.raises(StorageError, match="416"):
        memory.read_start("plain", 4)


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


def test_an_address_may_name_the_account_of_its_container(memory: FsspecStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda _: (memory._fs, memory._path.lstrip("/")))
    assert open_store("abfs://photos@account.dfs.core.windows.net/set").root.endswith("/set")
    with pytest.raises(UsageError, match="fsspec takes it for"):
        open_store("abfs://photos/set")
