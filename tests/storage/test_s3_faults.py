"""The S3 store against a server that answers badly, or in part."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from tests.faulty_store import KINDS, FaultyStore
from vitseg.errors import NotFoundError, StorageError
from vitseg.storage import s3 as s3_module
from vitseg.storage import s3_client
from vitseg.storage.s3 import S3Store

CONTENT = bytes(range(256)) * 20


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Nobody waits between retries; the pauses of our own are noted, seconds."""
    noted: list[float] = []
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setattr(s3_module, "time", SimpleNamespace(sleep=noted.append))
    return noted


@contextmanager
def faulty(*kinds: str, **options: Any) -> Iterator[FaultyStore]:
    """Point the next client to a proxy that spoils every answer, unless told otherwise."""
    good = os.environ["AWS_ENDPOINT_URL_S3"]
    with FaultyStore(good, **{"share": 1.0, "kinds": kinds, "stall": 0.05} | options) as proxy:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
            s3_client.forget_connections()
            yield proxy
        s3_client.forget_connections()


@pytest.mark.parametrize("kind", KINDS)
def test_what_fails_twice_and_then_goes_well(store: S3Store, pauses: list[float], kind: str) -> None:
    store.write("key", CONTENT, metadata={"place": "straße"})
    store.write("empty", b"")
    (empty, info) = store.list()
    with faulty(kind, most=2) as proxy:
        assert store.read_tagged("key") == (CONTENT, info.etag)
        assert store.read("empty") == b""
        assert list(store.read_many(["key", "empty", "key"])) == [
            (CONTENT, info.etag),
            (b"", empty.etag),
            (CONTENT, info.etag),
        ]
        assert store.read_start("key", 100) == CONTENT[:100]
        assert store.read_start("empty", 100) == b""
        assert [row.key for row in store.list()] == ["empty", "key"]
        assert store.stat("key") == info
        assert store.stat("nothing") is None
        with pytest.raises(NotFoundError):
            store.read("nothing")
        assert store.write("new", CONTENT, metadata={"place": "straße"})
        assert store.write("once", CONTENT, if_absent=True)
        assert store.write("file", io.BytesIO(CONTENT))
        store.delete("empty")
    assert proxy.faults.total() >= 10  # each call, at least once
    assert [row.key for row in store.list()] == ["file", "key", "new", "once"]
    assert [store.read(key) for key in ("file", "key", "new", "once")] == [CONTENT] * 4
    assert (store.metadata("new"), store.metadata("once")) == ({"place": "straße"}, {})


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "stall"])
def test_what_never_goes_well_is_a_storage_error(store: S3Store, pauses: list[float], kind: str) -> None:
    store.write("key", b"content")
    with faulty(kind):
        for call in (
            lambda: list(store.list()),
            lambda: store.read("key"),
            lambda: list(store.read_many(["key"])),
            lambda: store.read_start("key", 3),
        ):  # above all, no listing of nothing
            with pytest.raises(StorageError) as caught:
                call()
            assert type(caught.value) is StorageError
            assert len(str(caught.value).splitlines()) == 1


def test_a_body_that_breaks_off_is_asked_for_again_after_longer_and_longer_pauses(
    store: S3Store, pauses: list[float]
) -> None:
    store.write("key", b"content")
    with faulty("cut", "broken", "empty"), pytest.raises(StorageError):
        store.read("key")
    assert len(pauses) == 3
    assert all(0.5 * usual <= pause <= 1.5 * usual for pause, usual in zip(pauses, (0.1, 0.4, 1.6), strict=True))


@pytest.mark.parametrize("kind", ["lost", "broken", "conflict"])
def test_a_lost_answer_does_not_lose_a_race_and_wins_none(store: S3Store, pauses: list[float], kind: str) -> None:
    with faulty(kind, most=1, methods=("PUT",)) as proxy:
        assert store.write("mine", b"", if_absent=True) is True
    assert proxy.requests["PUT"] == 2
    store.write("taken", b"", if_absent=True)
    with faulty(kind, most=1, methods=("PUT",)):
        assert store.write("taken", b"", if_absent=True) is False


@pytest.mark.parametrize("kind", ["lost", "broken", "conflict"])
def test_a_lost_answer_does_not_spoil_a_replacement(store: S3Store, pauses: list[float], kind: str) -> None:
    store.write("key", b"old")
    old = store.stat("key")
    assert old is not None
    with faulty(kind, most=1, methods=("PUT",)) as proxy:
        assert store.write("key", b"new", if_match=old.etag) is True
    assert proxy.requests["PUT"] == 2
    with faulty(kind, most=1, methods=("PUT",)):
        assert store.write("key", b"other", if_match=old.etag) is False
    assert store.read("key") == b"new"


@pytest.mark.parametrize("length_last", [False, True])
def test_one_of_many_answers_may_end_anywhere_in_its_headers(
    store: S3Store, pauses: list[float], length_last: bool
) -> None:
    places = range(0, 400, 20)
    for place in places:
        store.write(f"{place:03}", CONTENT)
    infos = list(store.list())
    with faulty("cut_headers", most=1, length_last=length_last) as proxy:
        for place, info in zip(places, infos, strict=True):
            proxy.cut_at = place
            assert list(store.read_many([info.key])) == [(CONTENT, info.etag)]
    assert proxy.faults.total() == len(places)


@pytest.mark.parametrize("length_last", [False, True])
def test_an_answer_may_end_anywhere_in_its_headers(store: S3Store, pauses: list[float], length_last: bool) -> None:
    places = range(0, 400, 5)
    for place in places:
        store.write(f"{place:03}", CONTENT)
    infos = list(store.list())
    with faulty("cut_headers", most=1, length_last=length_last) as proxy:
        for place, info in zip(places, infos, strict=True):
            proxy.cut_at = place
            found = store.stat(info.key)
            assert found is not None
            assert found.etag == info.etag
            assert found.size == info.size or length_last  # half of the very last number is a number
            assert store.read_tagged(info.key) == (CONTENT, info.etag)
            assert store.read_start(info.key, 100) == CONTENT[:100]
    assert proxy.faults.total() == 2 * len(places)
