from pathlib import Path

import pytest

from vitseg.errors import UsageError
from vitseg.storage import LocalStore, canonical, open_store
from vitseg.storage.fsspec import FsspecStore
from vitseg.storage.s3 import S3Store


def test_addresses_find_their_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [type(open_store(address)) for address in ("photos", tmp_path, "s3://bucket/a", "memory://b")] == [
        LocalStore,
        LocalStore,
        S3Store,
        FsspecStore,
    ]
    for address in (f"file://{tmp_path}/photos", "~/photos"):
        opened = open_store(address)
        assert isinstance(opened, LocalStore)
        assert opened.folder == tmp_path / "photos"
    bucket = open_store("s3://bucket/a/b/")
    assert bucket.uri("key") == "s3://bucket/a/b/key"


@pytest.mark.parametrize("address", ["s3://", "s3:///key", "nonsense://x", "s3://key:hunter2@bucket/x"])
def test_addresses_that_can_not_be(address: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_store(address)
    assert "hunter2" not in str(caught.value)


def test_one_folder_has_one_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert {canonical(address) for address in ("photos", "./photos/", f"file://{tmp_path}/photos")} == {
        str(tmp_path / "photos")
    }
    assert canonical("s3://bucket/photos/") == "s3://bucket/photos"
