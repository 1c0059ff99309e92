import pytest

from vitseg.errors import DataError
from vitseg.json_input import malformed_as_data_error, parse_json, to_json_bytes


def test_json_is_parsed():
    assert parse_json(b'{"a": [1, null]}') == {"a": [1, None]}


def test_any_name_of_a_file_comes_back():
    name = {"source": "é\n\udcff\\udcff"}
    data = to_json_bytes(name)
    assert parse_json(data) == name
    assert "é".encode() in data


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_a_data_error(data):
    with pytest.raises(DataError, match="not JSON"):
        parse_json(data)


@malformed_as_data_error()
def read_size(values):
    return int(values["size"].strip())


def test_a_missing_key_is_named():
    assert read_size({"size": " 3 "}) == 3
    with pytest.raises(DataError, match="key 'size' is missing"):
        read_size({})


@pytest.mark.parametrize("values", [None, {"size": 3}, {"size": "three"}])
def test_a_value_of_the_wrong_form_is_a_data_error(values):
    with pytest.raises(DataError, match="wrong form"):
        read_size(values)
