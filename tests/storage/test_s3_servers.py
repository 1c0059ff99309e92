"""The S3 store against servers and buckets that are not as ours: each is a setting of tests/memory_s3.py."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.response import StreamingBody
from botocore.stub import Stubber
from hypothesis import example, given
from hypothesis import strategies as st

from tests.memory_s3 import MemoryS3, memory_s3
from vitseg.errors import AccessError, StorageError, VitsegError
from vitseg.storage import LocalStore, Store, canonical, content_md5, open_store, s3_client
from vitseg.storage.s3 import S3Store
from vitseg.storage.s3_client import start_reading

PREFIXES = [
    "",
    "/",
    "//",
    "photos",
    "/photos",
    "photos/",
    "photos//",
    "a b+c%20d?e#f",
    "雪/~",
    "x:y@z/a::b",
    "s3://b",
    "a\\b",
]


def use(store: S3Store, key: str = "key") -> dict[str, object]:
    """Do everything that talks to the server; return what came back."""
    return {
        "written": [store.write(key, b"old"), store.write(key, io.BytesIO(b"content"), metadata={"by": "straße"})],
        "taken": store.write(key, b"", if_absent=True),
        "list": [info.key for info in store.list()],
        "stat": (store.stat(key), store.stat("nothing")),
        "read": [store.read(key), store.read_start(key, 4), *(data for data, _ in store.read_many([key]))],
        "fetched": start_reading(store.bucket, store.prefix + key).result(timeout=30)[0],
        "deleted": store.delete(key),
    }


def refusal(call: object, kind: type[VitsegError]) -> str:
    with pytest.raises(kind) as caught:
        call()  # type: ignore[operator]
    assert type(caught.value) is kind
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def assert_works(store: Store) -> None:
    assert isinstance(store, S3Store)
    done = use(store)
    assert done["read"] == [b"content", b"cont", b"content"]
    assert done["fetched"] == b"content"  # `read_many` would read again what fails there
    assert (done["list"], done["written"], done["taken"]) == (["key"], [True, True], False)
    assert done["stat"][1] is None  # type: ignore[index]
    assert list(store.list()) == []


@pytest.fixture(scope="module")
def server() -> Iterator[MemoryS3]:
    """Return a server that is as S3 says, with two keys a page."""
    with memory_s3(page=2) as server:
        yield server


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_is_the_one_that_is_written(server: MemoryS3, prefix: str) -> None:
    server.objects.clear()
    full = prefix if not prefix or prefix.endswith("/") else prefix + "/"
    keys = ["a.jpg", "/a.jpg", "b//c.jpg", "d/", "z"]
    for key in keys:
        server.put(full + key, key.encode())
    server.put(f"{full}folder/", b"")  # a marker
    others = ["photo/a.jpg", "photos-old/a.jpg", "xphotos/a.jpg", "é/a.jpg"]
    for other in others:
        server.put(other, b"other")
    address = f"s3://bucket/{prefix}"
    store = open_store(canonical(address))
    inside = {key.removeprefix(full) for key in server.objects if key.startswith(full)} - {"folder/"}
    assert {info.key for info in store.list()} == inside
    assert [store.read(key) for key in keys] == [key.encode() for key in keys]
    assert list(store.read_many(keys)) == [(key.encode(), content_md5(key.encode())) for key in keys]
    assert store.write("new", b"")
    assert f"{full}new" in server.objects
    assert store.uri("new") == f"s3://bucket/{full}new"
    assert canonical(store.root) == store.root == canonical(address)


KEY = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40) | st.text(
    st.sampled_from("/.%20+ ~#?&\\:aé☃"), min_size=1, max_size=12
)


@example("a/")
@example("//")
@example("a+b c%20d?e#f")
@example(".")
@example("a/../b")
@given(KEY)
def test_a_key_is_read_and_listed_as_itself_or_refused(
    server: MemoryS3, tmp_path_factory: pytest.TempPathFactory, key: str
) -> None:
    server.objects.clear()
    for store in (open_store("s3://bucket//odd"), LocalStore(tmp_path_factory.mktemp("store"))):
        if isinstance(store, LocalStore) and not {"", ".", ".."}.isdisjoint(key.split("/")):
            with pytest.raises(StorageError, match="can't be a path"):
                store.write(key, b"content")
            continue
        assert store.write(key, b"content")
        assert [info.key for info in store.list()] == [key]
        assert store.read(key) == b"content"
        assert store.stat(key) == next(store.list())
        assert next(iter(store.read_many([key])))[0] == b"content"
    assert list(server.objects) == [f"/odd/{key}"]


@pytest.mark.parametrize("odd", ["checksums", "conditions", "payer"])
def test_servers_that_refuse_what_others_take(odd: str) -> None:
    variables = {"AWS_REQUEST_PAYER": "requester"} if odd == "payer" else {}
    with memory_s3(odd, **variables):
        assert_works(open_store("s3://bucket/photos"))


def test_servers_that_want_checksums_can_have_them() -> None:
    with memory_s3() as server:
        assert_works(open_store("s3://bucket"))
        assert not {name for name in server.names if name.startswith("x-amz-checksum")}
    with memory_s3(AWS_REQUEST_CHECKSUM_CALCULATION="when_supported") as server:
        assert_works(open_store("s3://bucket"))
        assert {"x-amz-checksum-crc32", "x-amz-trailer"} & server.names
    with memory_s3("checksums", AWS_REQUEST_CHECKSUM_CALCULATION="when_supported"):
        text = refusal(lambda: open_store("s3://bucket").write("key", b""), StorageError)
        assert "AWS_REQUEST_CHECKSUM_CALCULATION=when_required" in text


def test_a_bucket_whose_requesters_pay_names_the_setting() -> None:
    with memory_s3("payer"):
        store = open_store("s3://bucket")
        for call in (lambda: list(store.list()), lambda: list(store.read_many(["key"])), lambda: store.stat("key")):
            assert "set AWS_REQUEST_PAYER=requester" in refusal(call, AccessError)


def test_a_public_bucket_needs_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with memory_s3(bare="yes"):
        assert "AWS_NO_SIGN_REQUEST=yes" in refusal(lambda: list(open_store("s3://bucket").list()), AccessError)
    with memory_s3(bare="yes", AWS_NO_SIGN_REQUEST="YES") as server:
        assert_works(open_store("s3://bucket"))
        assert "authorization" not in server.names


def test_a_bucket_in_another_region_is_found() -> None:
    with memory_s3(region="eu-west-3"):
        assert_works(open_store("s3://bucket"))


def test_credentials_that_were_renewed_in_their_file_are_read_again(tmp_path: Path) -> None:
    file = tmp_path / "credentials"

    def renew(token: str) -> None:
        file.write_text(f"[default]\naws_access_key_id=a\naws_secret_access_key=b\naws_session_token={token}\n")

    renew("old")
    with memory_s3(page=1, token="old", bare="yes", AWS_SHARED_CREDENTIALS_FILE=str(file)) as server:
        for key in "abc":
            server.put(key, b"content")
        store = open_store("s3://bucket")
        listing, reading = store.list(), iter(store.read_many("abc"))
        assert (next(listing).key, next(reading)[0]) == ("a", b"content")
        calls = {
            "list": (lambda: [info.key for info in listing], ["b", "c"]),
            "write": (lambda: store.write("d", io.BytesIO(b"content")), True),
            "read_many": (lambda: [data for data, _ in store.read_many("abc")], [b"content"] * 3),
        }
        for name, (call, expected) in calls.items():
            server.token = name
            if name != "list":  # which could not go on after its failure
                assert "renew AWS_SESSION_TOKEN" in refusal(call, AccessError)
            renew(name)
            assert call() == expected
        assert [data for data, _ in reading] == [b"content"] * 2
        assert server.objects["d"][0] == b"content"


def test_a_server_that_joins_slashes_is_found_out() -> None:
    with memory_s3("slashes") as server:
        server.put("photos/other.jpg", b"")
        assert "another place" in refusal(lambda: list(open_store("s3://bucket//photos").list()), StorageError)
        assert [info.key for info in open_store("s3://bucket/photos").list()] == ["other.jpg"]


def test_a_listing_that_does_not_go_on_is_an_error() -> None:
    with memory_s3(page=0) as server:
        server.put("a", b"")
        assert "breaks off" in refusal(lambda: list(open_store("s3://bucket").list()), StorageError)


def test_a_head_that_is_refused_makes_connections_anew_only_where_the_credentials_are_others() -> None:
    with memory_s3(), pytest.MonkeyPatch.context() as patch:
        for is_new in (False, True):
            connection = s3_client.client()
            if is_new:
                patch.setenv("AWS_SECRET_ACCESS_KEY", "another")
            with Stubber(connection) as stub:  # what S3 sends for an object under a customer's key
                for _ in range(2 - is_new):
                    stub.add_client_error("head_object", "400", http_status_code=400)
                if is_new:
                    assert open_store("s3://bucket").stat("key") is None
                else:
                    refusal(lambda: open_store("s3://bucket").stat("key"), StorageError)
            assert (s3_client.client() is not connection) == is_new


def test_of_a_server_without_ranges_only_the_start_is_read() -> None:
    raw = io.BytesIO(b"0123456789")
    body = StreamingBody(raw, 10)
    with memory_s3(), Stubber(s3_client.client()) as stub:
        stub.add_response("get_object", {"Body": body, "ETag": '"tag"'})
        raw.close = lambda: None  # type: ignore[method-assign]
        assert open_store("s3://bucket").read_start("key", 4) == b"0123"
    assert raw.tell() == 4
