from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

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


ODD_NAMES = [
    "set#2",
    "set?x=1",
    "a%20b",
    "a b",
    " a",
    "a ",
    "a+b",
    "~",
    "~nobody-here",
    "a\\b",
    "C:",
    "straße 雪",
    "a::b",
    "-x",
    "a\nb",
    "models:",
]


@example("set#2")
@example("100%25")
@given(
    st.sampled_from(ODD_NAMES)
    | st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=30)
)
def test_any_name_of_a_folder_is_an_address(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    folder = tmp_path_factory.mktemp("names") / name
    try:
        folder.mkdir()
    except OSError:  # `.`, `..`, or too long
        assume(False)
    (folder / "a.jpg").write_bytes(b"x")
    for address in (
        folder,
        str(folder),
        f"{folder}/",
        f"/{folder}",
        folder.as_uri(),
        f"FILE://localhost{quote(str(folder))}",
    ):
        assert canonical(address) == str(folder)
        assert [info.key for info in open_store(canonical(address)).list()] == ["a.jpg"]
    written = f"file://{folder}"
    if "%" not in name:  # else it begins an escape
        assert canonical(written) == str(folder)


def test_names_in_the_current_folder_are_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("set#2", "a::b", "Berlin:2024", "~nobody-here", "a\\b", "C:", "12:30", "-x", "./s3:", "./models:"):
        assert canonical(name) == str(tmp_path / name.removeprefix("./"))
    monkeypatch.setenv("HOME", "/home/me")
    assert canonical("~/photos") == "/home/me/photos"
    assert canonical("./~/photos") == str(tmp_path / "~/photos")


def test_schemes_may_be_written_in_capitals_or_as_hadoop_does() -> None:
    assert {canonical(f"{scheme}://bucket/A") for scheme in ("s3", "S3", "s3a", "S3A")} == {"s3://bucket/A"}


@pytest.mark.parametrize(
    "address",
    [
        "", "a\0b", "/photos\udcff", "nonsense://x", "models:/vitseg/1", "runs:/1",
        "s3://", "s3:///key", "s3:/bucket/x", "s3:bucket", "s3://bucket./x", "s3://.bucket", "s3://../x", "s3://a..b/x",
        "s3://bu cket/x", "s3://bucket?x=1", "s3://bucket#1/x", "s3://bucket:80/x", "s3://[x]/y", "s3://bücket/x", "s3://~/x",
        "s3://bucket/a/../b", "s3://bucket/.", "s3://bucket/\udcff",
        "s3://key:hunter2@bucket/x", "s3://key:hun/ter2@bucket/x",
        "file:", "file:photos", "file:/photos", "file://", "file://photos", "file://photos/x", "file://./x", "file://~/x",
        "file:///50%", "file:///50%zz", "file:///a%2Fb", "file:///a%00b",
        "memory://", "memory://a//", "memory://a::b", "zip://a.zip",
        "https://example.com/set?x=1", "https://example.com/set#2", "https://example.com/a/../b", "https://example.com/x?X-Amz-Signature=hunter2",
        "https://hunter2@example.com/x",
        "https://example.com/x?password=hunter2", "https://example.com/x?key=hunter2", "nosuch://example.com/x?apikey=hunter2", "sftp://me:hunter2@example.com/x",
    ],
)  # fmt: skip
def test_addresses_that_can_not_be(address: str) -> None:
    for reading in (open_store, canonical):
        with pytest.raises(UsageError) as caught:
            reading(address)
        assert not any(part in str(caught.value) for part in ("hunter2", "ter2@"))
        assert len(str(caught.value).splitlines()) == 1


def test_one_folder_has_one_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert {canonical(address) for address in ("photos", "./photos/", f"file://{tmp_path}/photos")} == {
        str(tmp_path / "photos")
    }
    assert canonical("s3://bucket/photos/") == "s3://bucket/photos"
    (tmp_path / "loop").symlink_to("loop")
    assert canonical("loop") == str(tmp_path / "loop")
