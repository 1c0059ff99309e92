"""What a failed request means; tests/storage/test_s3.py and test_s3_servers.py make servers say these things."""

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, NoCredentialsError, TokenRetrievalError

from vitseg.errors import AccessError, NotFoundError, StorageError, StoreFullError, UsageError, VitsegError
from vitseg.storage.s3_errors import may_be_expired, s3_error


def client_error(code: str, message: str = "", operation: str = "GetObject", status: int = 400) -> ClientError:
    response = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, operation)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (client_error("NoSuchKey"), NotFoundError, "s3://bucket/key does not exist"),
        (client_error("NoSuchBucket"), NotFoundError, "bucket 'bucket' does not exist"),
        (client_error("AccessDenied"), AccessError, "AWS_REQUEST_PAYER=requester"),
        (client_error("403", operation="HeadObject"), AccessError, "AWS_REQUEST_PAYER=requester"),
        (client_error("ExpiredToken"), AccessError, "renew AWS_SESSION_TOKEN"),
        (TokenRetrievalError(provider="sso", error_msg="expired\nnow"), AccessError, "sign in again"),
        (NoCredentialsError(), AccessError, "AWS_NO_SIGN_REQUEST=yes"),
        (client_error("PermanentRedirect", "use another endpoint"), UsageError, "set AWS_REGION"),
        (client_error("QuotaExceeded"), StoreFullError, "no room left"),
        (client_error("Odd", status=507), StoreFullError, "no room left"),
        (client_error("InvalidArgument", "Unsupported header 'x-amz-sdk-checksum-algorithm'"), StorageError, "when_required"),
        (client_error("400", "Bad Request", "HeadObject"), StorageError, "a session that has ended"),
        (client_error("InvalidRequest", "two\nlines"), StorageError, "InvalidRequest two lines"),
        (ConnectionClosedError(endpoint_url="http://x"), StorageError, "closed"),
    ],
)  # fmt: skip
def test_an_error_says_what_to_do(
    error: Exception, kind: type[VitsegError], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_REQUEST_PAYER", raising=False)
    found = s3_error(error, "s3://bucket/key", "bucket")
    assert type(found) is kind
    assert words in str(found)
    assert len(str(found).splitlines()) == 1


def test_who_pays_already_is_not_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REQUEST_PAYER", "requester")
    assert "PAYER" not in str(s3_error(client_error("AccessDenied"), "s3://bucket/key", "bucket"))


def test_only_an_ended_session_is_renewed() -> None:
    assert may_be_expired(client_error("ExpiredToken"))
    assert may_be_expired(client_error("400", operation="HeadObject"))
    assert not may_be_expired(client_error("400"))
    assert not may_be_expired(client_error("AccessDenied"))
