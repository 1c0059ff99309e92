import secrets
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from vitseg.storage import open_store, s3_client
from vitseg.storage.s3 import S3Store


@pytest.fixture
def store(s3: str) -> S3Store:
    """Return a store on a prefix that no other test uses."""
    opened = open_store(f"{s3}/test-{secrets.token_hex(6)}")
    assert isinstance(opened, S3Store)
    return opened


@pytest.fixture
def fresh_client(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Let a test change the AWS_ variables; the next client reads them, without waiting between its retries."""
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda seconds: None))
    s3_client.forget_connections()
    yield monkeypatch
    monkeypatch.undo()
    s3_client.forget_connections()
