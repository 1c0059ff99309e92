import pytest

from vitseg.errors import UsageError
from vitseg.storage import content_md5, s3_client
from vitseg.storage.s3 import S3Store


def test_a_process_has_one_client_until_it_forgets_it(fresh_client: pytest.MonkeyPatch) -> None:
    first = s3_client.client()
    assert s3_client.client() is first
    s3_client.forget_connections()
    assert s3_client.client() is not first


def test_an_object_is_read_in_the_background(store: S3Store) -> None:
    store.write("straße 1", b"content")
    reading = s3_client.start_reading(store.bucket, f"{store.prefix}straße 1")
    assert reading.result(timeout=30) == (b"content", content_md5(b"content"))
    assert s3_client.start_reading(store.bucket, "nothing").exception(timeout=30) is not None


@pytest.mark.parametrize(
    ("name", "value"), [("AWS_ENDPOINT_URL_S3", "localhost:8333"), ("AWS_PROFILE", "no-such-profile")]
)
def test_settings_that_make_no_client(store: S3Store, fresh_client: pytest.MonkeyPatch, name: str, value: str) -> None:
    fresh_client.setenv(name, value)
    for call in (s3_client.client, lambda: s3_client.start_reading(store.bucket, "key")):
        with pytest.raises(UsageError, match=value) as caught:
            call()
        assert len(str(caught.value).splitlines()) == 1
