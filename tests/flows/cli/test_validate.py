"""What is checked before anything starts: sizes, words, nodes, sources."""

import logging
from pathlib import Path

import pytest

from flows.cli import validate
from vitseg import old_keys
from vitseg.errors import NotFoundError, UsageError


@pytest.mark.parametrize(("text", "size"), [("512x256", (256, 512)), ("256", (256, 256)), ("16384x1", (1, 16384))])
def test_a_size_is_width_and_height_or_one_number_for_both(text: str, size: tuple[int, int]) -> None:
    assert validate.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "big", "0", "256x0", "16385", "256x", "x256", "256x256x3", "-1", "2.5", " 256"])
def test_anything_else_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="WIDTHxHEIGHT"):
        validate.parse_size(text)


def test_the_old_word_for_scratch_is_read_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    old_keys._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert validate.parse_start("chance") == "scratch"
    assert len(caplog.messages) == 1
    assert "scratch" in caplog.text
    assert validate.parse_start("champion") == "champion"
    with pytest.raises(UsageError, match="scratch or champion"):
        validate.parse_start("luck")


def test_pictures_are_named_with_commas() -> None:
    assert validate.parse_pictures("") == []
    assert validate.parse_pictures("color,overlay") == ["color", "overlay"]
    with pytest.raises(UsageError, match="confidence"):
        validate.parse_pictures("color,depth")


def test_several_nodes_need_a_place_to_meet() -> None:
    validate.nodes(None, 1, "")
    validate.nodes(2, 2, "node-0:29400")
    for nproc, nnodes, rendezvous in ((2, 2, ""), (2, 2, "node-0"), (1, 0, "")):
        with pytest.raises(UsageError):
            validate.nodes(nproc, nnodes, rendezvous)


def test_a_source_is_a_folder_with_something_in_it(tmp_path: Path) -> None:
    archive = tmp_path / "photos.zip"
    archive.write_bytes(b"PK")
    validate.source(str(tmp_path))
    with pytest.raises(UsageError, match=r"photos\.zip is a file: SOURCE is the folder"):
        validate.source(str(archive))
    with pytest.raises(NotFoundError, match="empty or does not exist"):
        validate.source(str(tmp_path / "missing"))
