"""Names are refused before any work, in one line, and what is accepted can be registered, found and addressed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.store.artifact.utils.models import _parse_model_uri
from mlflow.utils.validation import (
    _validate_model_alias_name,
    _validate_model_alias_name_reserved,
    _validate_model_name,
)

from vitseg.errors import UsageError
from vitseg.registry import versions
from vitseg.registry.names import check_name, check_optional_name, parse_address

WRONG = [
    "", " ", "a/b", "a:b", "x?y#z", "x#", "a%20b", "a@b", 'a"b', " a", "a ", "a\tb", "a\nb", "a\x00b", "a\u200bb", "a\udc80b",
    ".", "..", "..a", "a" * 201, "ä" * 101,
]  # fmt: skip
RIGHT = ["vitseg", "vitseg-candidates", "it's", "a b", "größe", "日本", ".a", "a.b", "-x", "a\\b", "a" * 200]


@pytest.mark.parametrize("name", WRONG)
def test_a_name_that_no_model_can_have_is_refused_in_one_line(name: str) -> None:
    for check in (check_name, versions.list_versions, lambda name: parse_address(f"models:/{name}/1")):
        with pytest.raises(UsageError) as caught:
            check(name)
        assert len(str(caught.value).splitlines()) == 1


def test_a_name_that_is_accepted_is_found_again(sqlite: str) -> None:
    client = MlflowClient()
    for name in RIGHT:
        versions.ensure_model(client, check_name(name))
        client.create_model_version(name, "s3://somewhere", tags={"sha256": "0" * 64})
    for name in RIGHT:
        assert [version.uri for version in versions.list_versions(name)] == [f"models:/{name}/1"]
        assert versions.resolve(f"models:/{name}/1").name == name


@given(st.text(max_size=30))
def test_mlflow_refuses_no_name_and_reads_every_address_that_is_accepted(name: str) -> None:
    try:
        check_name(name)
    except UsageError:
        return
    _validate_model_name(name)
    assert _parse_model_uri(f"models:/{name}/1")[1:3] == (name, "1")
    assert _parse_model_uri(f"models:/{name}@champion").name == name
    assert parse_address(f"models:/{name}/12") == (name, "", "12")
    assert parse_address(f"models:/{name}@champion") == (name, "champion", "")


def test_no_target_is_no_name() -> None:
    assert check_optional_name("") == ""
    assert check_optional_name("approved") == "approved"
    with pytest.raises(UsageError, match="it can't hold /"):
        check_optional_name("a/b")


@given(st.text(st.sampled_from("vV1latesLATES-_. é"), max_size=8))
def test_mlflow_takes_every_alias_that_is_accepted(alias: str) -> None:
    try:
        parse_address(f"models:/vitseg@{alias}")
    except UsageError:
        return
    _validate_model_alias_name(alias)
    _validate_model_alias_name_reserved(alias)


@pytest.mark.parametrize(
    "address",
    [
        "models:/vitseg", "models:vitseg/1", "models:/vitseg/latest", "models:/vitseg/0", "models:/vitseg/007", "models:/vitseg/٣",
        "models:/vitseg/9999999999", "models:/vitseg@latest", "models:/vitseg@v1", "models:/vitseg@", "models:/vitseg@a b",
        "models:/vitseg@a@b", "models:/a/b/1", "models:/vitseg@champion/1",
    ],
)  # fmt: skip
def test_an_address_that_can_not_exist_is_refused(address: str) -> None:
    with pytest.raises(UsageError):
        parse_address(address)
