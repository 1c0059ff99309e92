from vitseg.storage import join, without_secrets


def test_join_sets_single_slashes() -> None:
    assert join("s3://bucket/", "/a/", "b") == "s3://bucket/a/b"
    assert join("/", "a") == "/a"
    assert join("folder", "") == "folder"


def test_addresses_are_shown_without_secrets() -> None:
    assert without_secrets("https://user:word@host:80/path?token=abc#part") == "https://host:80/path"
    assert without_secrets("folder/with?odd#name") == "folder/with?odd#name"
