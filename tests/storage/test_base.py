import pytest

from vitseg.storage import join, split_address, without_secrets


def test_join_sets_a_slash_where_there_is_none() -> None:
    assert join("s3://bucket", "a", "b") == join("s3://bucket/", "a", "b") == "s3://bucket/a/b"
    assert join("s3://bucket//", "a") == "s3://bucket//a"
    assert join("s3://bucket", "/a") == "s3://bucket//a"
    assert join("/", "a") == "/a"
    assert join("folder", "") == "folder"


def test_addresses_are_shown_without_secrets() -> None:
    assert without_secrets("https://user:word@host:80/path?token=abc#part") == "https://host:80/path"
    assert without_secrets("https://[odd") == "https://[odd"
    assert without_secrets("folder/with?odd#name") == "folder/with?odd#name"


@pytest.mark.parametrize(
    ("address", "folder", "name"),
    [
        ("/a.jpg", "/", "a.jpg"),
        ("/photos/a.jpg", "/photos/", "a.jpg"),
        ("/", "/", ""),
        ("s3://bucket/a.jpg", "s3://bucket/", "a.jpg"),
        ("s3://bucket//a.jpg", "s3://bucket//", "a.jpg"),
        ("s3://bucket/odd://a.jpg", "s3://bucket/odd://", "a.jpg"),
        ("s3://bucket/photos//", "s3://bucket/photos//", ""),
        ("s3://bucket", "s3://", ""),
    ],
)
def test_an_object_has_a_folder_and_a_name(address: str, folder: str, name: str) -> None:
    assert split_address(address) == (folder, name)
