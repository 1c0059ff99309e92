import tarfile
from pathlib import Path

import pytest

from tests.data.generated_shards import sample, shard_info, write_tar
from vitseg.data.tar_index import OpenShard, ShardIndex, index_shard
from vitseg.errors import DataError


def index(path: Path, count: int) -> ShardIndex:
    with path.open("rb") as file:
        return index_shard(file, shard_info(path, count))


def test_samples_are_read_in_any_order(tmp_path):
    rows = [sample(number) for number in range(5)]
    info = write_tar(tmp_path / "a.tar", rows)
    with (tmp_path / "a.tar").open("rb") as file:
        shard = OpenShard(info, file, index_shard(file, info))
        for number in (3, 0, 4):
            row = rows[number]
            assert shard.read(number) == (row["__key__"], row["jpg"], row["png"])


@pytest.mark.parametrize("extension", ["pyd", "pth", "jpeg", "gz", "tar.png"])
def test_other_members_are_refused(tmp_path, extension):
    write_tar(tmp_path / "a.tar", [sample(0), sample(1, **{extension: b"code"})])
    with pytest.raises(DataError, match=rf"a\.tar.*key001\.{extension}"):
        index(tmp_path / "a.tar", 2)


def test_an_incomplete_sample_is_named(tmp_path):
    write_tar(tmp_path / "a.tar", [sample(0), sample(1, png=None)])
    with pytest.raises(DataError, match=r"a\.tar: sample 'key001' has no png"):
        index(tmp_path / "a.tar", 2)


def test_a_key_that_comes_twice_is_refused(tmp_path):
    write_tar(tmp_path / "a.tar", [sample(0), sample(0)])
    with pytest.raises(DataError, match="key000"):
        index(tmp_path / "a.tar", 2)


def test_a_tar_cut_between_members_is_not_taken_for_a_short_one(tmp_path):
    path = tmp_path / "a.tar"
    write_tar(path, [sample(number) for number in range(3)])
    with tarfile.open(path) as tar:
        cut = next(member.offset for member in tar if member.name.startswith("key002"))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match="holds 2 samples; the manifest says 3"):
        index(path, 3)


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100])
def test_what_is_no_tar_is_refused(tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.tar is not a readable tar"):
        index(tmp_path / "a.tar", 1)


def test_links_are_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        link = tarfile.TarInfo("key000.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(DataError, match="not a plain, whole file"):
        index(tmp_path / "a.tar", 1)


def test_a_member_that_claims_more_than_the_file_holds_is_refused(tmp_path):
    header = tarfile.TarInfo("key000.jpg")
    header.size = 2**40
    (tmp_path / "a.tar").write_bytes(header.tobuf() + bytes(1024))
    with pytest.raises(DataError, match="not a plain, whole file"):
        index(tmp_path / "a.tar", 1)
