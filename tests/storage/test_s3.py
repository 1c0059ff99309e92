"""The S3 store against a real S3 server: SeaweedFS, as `vitseg stack` starts it. tests/test_s3_faults.py spoils it."""

import io
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from botocore.stub import Stubber

from vitseg.errors import AccessError, NotFoundError, StorageError, StoreFullError, UsageError, VitsegError
from vitseg.storage import content_md5, open_store, s3_client
from vitseg.storage.s3 import S3Store

KEYS = ["plain", "two words.png", "50% off", "100%25", "straße/雪 ☃.jpg", "a+b&c=d?e#f", "deep/er/key.tar"]


def everything(store: S3Store) -> dict[str, object]:
    """Every call that talks to the server."""
    return {
        "list": lambda: list(store.list()),
        "stat": lambda: store.stat("key"),
        "metadata": lambda: store.metadata("key"),
        "read": lambda: store.read("key"),
        "read_many": lambda: list(store.read_many(["key"])),
        "read_start": lambda: store.read_start("key", 4),
        "write": lambda: store.write("key", b"data"),
        "delete": lambda: store.delete("key"),
    }


def refusal(call: object, kind: type[VitsegError]) -> str:
    """Return the text of an error, which is one line and holds no secret."""
    with pytest.raises(kind) as caught:
        call()  # type: ignore[operator]
    assert type(caught.value) is kind
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in text
    return text


def test_what_is_written_is_listed_and_read(store: S3Store) -> None:
    for number, key in enumerate(KEYS):
        assert store.write(key, f"content {number}".encode())
    assert {info.key: info.size for info in store.list()} == dict.fromkeys(KEYS, len("content 0"))
    assert [store.read(key) for key in KEYS] == [f"content {number}".encode() for number in range(len(KEYS))]
    assert [store.stat(info.key) for info in store.list()] == list(store.list())
    assert {info.key for info in store.list("deep/")} == {"deep/er/key.tar"}
    assert {info.key for info in store.list("50%")} == {"50% off"}
    for key in KEYS:
        store.delete(key)
    assert list(store.list()) == []


def test_a_new_content_has_a_new_etag(store: S3Store) -> None:
    store.write("key", b"one")
    first = store.stat("key")
    store.write("key", b"two")
    assert store.read("key") == b"two"
    assert first != store.stat("key")


def test_what_is_not_there(store: S3Store) -> None:
    assert store.stat("nothing") is None
    assert store.metadata("nothing") == {}
    assert list(store.list()) == []
    store.delete("nothing")
    assert store.uri("nothing") in refusal(lambda: store.read("nothing"), NotFoundError)


def test_many_objects_are_read_in_the_order_that_was_asked_for(store: S3Store) -> None:
    contents = {f"{number:02}": bytes([number]) * number for number in range(50)}
    for key, data in contents.items():
        store.write(key, data)
    keys = sorted(contents, reverse=True)
    assert list(store.read_many(keys)) == [(contents[key], content_md5(contents[key])) for key in keys]
    reading = store.read_many(["07", "nothing", "08"])
    assert next(reading)[0] == contents["07"]
    assert store.uri("nothing") in refusal(lambda: next(reading), NotFoundError)


def test_a_reader_of_many_objects_may_stop_early(store: S3Store) -> None:
    store.write("key", b"content")
    reading = store.read_many("key" for _ in range(1000))
    assert next(reading)[0] == b"content"
    reading.close()  # type: ignore[attr-defined]


def test_the_start_of_an_object(store: S3Store) -> None:
    for key, data in {"long": b"0123456789", "short": b"01", "empty": b""}.items():
        store.write(key, data)
        assert store.read_start(key, 4) == data[:4]
    assert store.uri("nothing") in refusal(lambda: store.read_start("nothing", 4), NotFoundError)


@pytest.mark.parametrize("code", ["InvalidRange", "416"])
def test_an_empty_object_has_no_range(store: S3Store, code: str) -> None:
    with Stubber(s3_client.client()) as stub:
        stub.add_client_error("get_object", service_error_code=code, http_status_code=416)
        assert store.read_start("key", 4) == b""


@pytest.mark.parametrize(("code", "status"), [("NotImplemented", 501), ("501", 501), ("NotImplemented", 400)])
@pytest.mark.parametrize("taken", [False, True])
def test_creation_where_there_are_no_conditional_writes(store: S3Store, code: str, status: int, taken: bool) -> None:
    place = {"Bucket": store.bucket, "Key": f"{store.prefix}key"}
    plain = {"Body": b"data", "ContentType": "image/png", "Metadata": {"model": "a"}}
    with Stubber(s3_client.client()) as stub:
        stub.add_client_error("put_object", service_error_code=code, http_status_code=status)
        if taken:
            stub.add_response("head_object", {"ContentLength": 1, "ETag": '"tag"'}, place)
        else:
            stub.add_client_error("head_object", "404", http_status_code=404, expected_params=place)
            stub.add_response("put_object", {}, place | plain)
        written = store.write("key", b"data", metadata={"model": "a"}, content_type="image/png", if_absent=True)
        assert written is not taken
        stub.assert_no_pending_responses()


@pytest.mark.parametrize("there", ["tag", "other", None])
def test_replacement_where_there_are_no_conditional_writes(store: S3Store, there: str | None) -> None:
    place = {"Bucket": store.bucket, "Key": f"{store.prefix}key"}
    file = io.BytesIO(b"data")
    plain = {"Body": file, "ContentType": "application/octet-stream", "Metadata": {}}
    with Stubber(s3_client.client()) as stub:
        stub.add_client_error("put_object", "NotImplemented", http_status_code=501)
        if there is None:
            stub.add_client_error("head_object", "404", http_status_code=404, expected_params=place)
        else:
            stub.add_response("head_object", {"ContentLength": 1, "ETag": f'"{there}"'}, place)
        if there == "tag":
            stub.add_response("put_object", {}, place | plain)
        assert store.write("key", file, if_match="tag") is (there == "tag")
        stub.assert_no_pending_responses()


@pytest.mark.parametrize(("code", "status"), [("NoSuchKey", 404), ("PreconditionFailed", 412)])
def test_servers_differ_in_what_they_say_where_there_is_nothing_to_replace(
    store: S3Store, code: str, status: int
) -> None:
    with Stubber(s3_client.client()) as stub:
        stub.add_client_error("put_object", code, http_status_code=status)
        assert store.write("key", b"data", if_match="tag") is False
        stub.add_client_error("put_object", "NoSuchBucket", http_status_code=404)
        assert "does not exist" in refusal(lambda: store.write("key", b"data", if_match="tag"), NotFoundError)


def test_a_write_that_is_not_implemented_at_all(store: S3Store) -> None:
    with Stubber(s3_client.client()) as stub:
        stub.add_client_error("put_object", service_error_code="NotImplemented", http_status_code=501)
        assert "NotImplemented" in refusal(lambda: store.write("key", b"data"), StorageError)


def test_neighbors_with_a_longer_name_are_not_in_the_store(s3: str, store: S3Store) -> None:
    store.write("a", b"")
    open_store(f"{store.root}-other").write("b", b"")
    assert [info.key for info in store.list()] == ["a"]


def test_folder_markers_are_not_objects(store: S3Store) -> None:
    s3_client.client().put_object(Bucket=store.bucket, Key=f"{store.prefix}folder/", Body=b"")
    store.write("folder/file", b"x")
    assert [info.key for info in store.list()] == ["folder/file"]


def test_metadata_comes_back_as_it_went_in(store: S3Store) -> None:
    metadata = {"model": "straße 雪", "version": "models:/seg@champion", "share": "100%25", "padded": " a  b\n"}
    store.write("key", b"data", metadata=metadata)
    assert store.metadata("key") == metadata


def test_md5_is_of_the_content_however_it_was_uploaded(store: S3Store) -> None:
    store.write("plain", b"some content")
    client, place = s3_client.client(), {"Bucket": store.bucket, "Key": f"{store.prefix}parts"}
    upload = client.create_multipart_upload(**place)["UploadId"]
    part = client.upload_part(**place, UploadId=upload, PartNumber=1, Body=b"some content")
    parts = {"Parts": [{"ETag": part["ETag"], "PartNumber": 1}]}
    client.complete_multipart_upload(**place, UploadId=upload, MultipartUpload=parts)
    assert [store.md5(info) for info in store.list()] == [content_md5(b"some content")] * 2


def test_more_objects_than_a_page(store: S3Store) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: store.write(f"{number:04d}", b""), range(1003)))
    assert [info.key for info in store.list()] == [f"{number:04d}" for number in range(1003)]


def test_one_of_many_writers_creates_an_object(store: S3Store) -> None:
    for round_ in range(3):
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda n, key=f"lock{round_}": store.write(key, bytes([n]), if_absent=True), range(8)))
        assert won.count(True) == 1
        assert store.read(f"lock{round_}") == bytes([won.index(True)])
    assert store.write("lock0", b"later", if_absent=True) is False


def test_one_of_many_writers_replaces_an_object(store: S3Store) -> None:
    for round_ in range(3):
        store.write("key", f"the old one {round_}".encode(), metadata={"by": "another"})
        info = store.stat("key")
        assert info is not None
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda n, etag=info.etag: store.write("key", bytes([n]), if_match=etag), range(8)))
        assert won.count(True) == 1
        assert store.read("key") == bytes([won.index(True)])
    assert store.metadata("key") == {}
    assert store.write("gone", b"new", if_match=info.etag) is False
    assert store.stat("gone") is None


def test_a_file_is_written_from_its_start(store: S3Store) -> None:
    content = bytes(range(256)) * 50_000
    file = io.BytesIO(content)
    file.seek(700)
    assert store.write("key", file, content_type="application/x-tar")
    assert store.write("key", file, if_absent=True) is False
    assert store.write("other", file, if_absent=True)
    assert store.write("empty", io.BytesIO())
    assert [store.read(key) for key in ("key", "other", "empty")] == [content, content, b""]
    info = store.stat("key")
    assert info is not None
    assert info.etag == content_md5(content)  # one part, so that the etag tells the content


def test_a_wrong_secret_is_an_access_error(store: S3Store, fresh_client: pytest.MonkeyPatch) -> None:
    fresh_client.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-secret-of-mine")
    for call in everything(store).values():
        assert "check AWS_ACCESS_KEY_ID" in refusal(call, AccessError)


def test_an_unknown_key_is_an_access_error(store: S3Store, fresh_client: pytest.MonkeyPatch) -> None:
    fresh_client.setenv("AWS_ACCESS_KEY_ID", "AKIANOBODY")
    for call in everything(store).values():
        assert "check AWS_ACCESS_KEY_ID" in refusal(call, AccessError)


def test_no_credentials_at_all(store: S3Store, fresh_client: pytest.MonkeyPatch) -> None:
    fresh_client.delenv("AWS_ACCESS_KEY_ID")
    fresh_client.setenv("AWS_EC2_METADATA_DISABLED", "true")
    fresh_client.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    fresh_client.setenv("AWS_CONFIG_FILE", "/nonexistent")
    for call in everything(store).values():
        assert "set AWS_ACCESS_KEY_ID" in refusal(call, AccessError)


def test_a_missing_bucket_is_named(s3: str) -> None:
    # Not `write`: SeaweedFS makes the bucket for an administrator, as the embedded stack's identity is.
    store = S3Store("no-such-bucket", "prefix")
    calls = everything(store)
    for name in ("list", "read", "read_many", "read_start"):
        assert "bucket 'no-such-bucket' does not exist" in refusal(calls[name], NotFoundError)
    assert store.stat("key") is None


def test_a_name_that_no_bucket_has_is_a_usage_error(s3: str) -> None:
    for call in everything(S3Store("no bucket", "prefix")).values():
        assert "no bucket" in refusal(call, UsageError)


def test_nobody_listens(store: S3Store, fresh_client: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        fresh_client.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        for call in everything(store).values():
            text = refusal(call, StorageError)
            assert endpoint in text
            assert "vitseg stack up" in text


def test_the_etag_is_of_the_content_that_was_read(store: S3Store) -> None:
    store.write("key", b"listed")
    (listed,) = store.list()
    assert store.read_tagged("key") == (b"listed", listed.etag)
    store.write("key", b"changed since")
    data, etag = store.read_tagged("key")
    assert data == b"changed since"
    assert store.stat("key") == replace(listed, size=len(data), etag=etag)
    assert etag != listed.etag


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("XMinioStorageFull", 507),
        ("XMinioAdminBucketQuotaExceeded", 400),
        ("QuotaExceeded", 403),
        ("507", 507),
    ],
)
def test_a_server_without_room(store: S3Store, code: str, status: int) -> None:
    with Stubber(s3_client.client()) as stub:
        stub.add_client_error("put_object", service_error_code=code, http_status_code=status)
        text = refusal(lambda: store.write("key", b"data"), StoreFullError)
    assert f"no room left for {store.uri('key')} ({code}): make room there" in text


def test_an_internal_error_may_be_a_full_disk_and_may_pass(store: S3Store) -> None:
    with Stubber(s3_client.client()) as stub:
        stub.add_client_error("put_object", service_error_code="InternalError", http_status_code=500)
        assert "when its disk is full" in refusal(lambda: store.write("key", b"data"), StorageError)
