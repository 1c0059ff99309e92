import dataclasses
import hashlib
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image
from webdataset import TarWriter

from vitseg.data.commit import commit
from vitseg.data.manifest import read_manifest
from vitseg.data.plan import make_plan
from vitseg.data.shards import write_shard
from vitseg.data.verify import verify
from vitseg.errors import NotFoundError


@pytest.fixture
def dataset(pairs, tmp_path):
    """Return the folder of a sound data set: two shards of three samples."""
    plan = make_plan(str(pairs(train=6, val=0)), size=(16, 16), shard_samples=3)
    dest = tmp_path / "shards"
    commit(plan, [write_shard(shard, plan.options, str(dest)) for shard in plan.shards], str(dest))
    return dest


def first_shard(dataset):
    return dataset / read_manifest(str(dataset)).splits["train"].shards[0].name


def members_of(path):
    with tarfile.open(path) as tar:
        return {row.name: tar.extractfile(row).read() for row in tar}


def tar_of(members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in members:
            row = tarfile.TarInfo(name)
            row.size = len(data)
            tar.addfile(row, io.BytesIO(data))
    return out.getvalue()


def rewrite(dataset, data):
    """Replace the first shard, and its size and hash in the manifest, as a careful forger would."""
    path = first_shard(dataset)
    path.write_bytes(data)
    content = json.loads((dataset / "manifest.json").read_text())
    content["splits"]["train"]["shards"][0] |= {
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    (dataset / "manifest.json").write_text(json.dumps(content))


def png(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def test_a_sound_data_set_has_no_problems(dataset):
    seen = []
    report = verify(str(dataset), progress=lambda done, total: seen.append((done, total)))
    assert report.problems == []
    assert (report.shards, report.samples) == (2, 6)
    assert report.pixels_per_class == {"train": read_manifest(str(dataset)).splits["train"].pixels_per_class}
    assert seen == [(1, 2), (2, 2)]
    assert json.loads(json.dumps(dataclasses.asdict(report)))["samples"] == 6


def test_no_data_set_is_said(tmp_path):
    with pytest.raises(NotFoundError):
        verify(str(tmp_path))


def test_a_missing_shard_is_named(dataset):
    path = first_shard(dataset)
    path.unlink()
    report = verify(str(dataset))
    assert f"{path.name}: is missing" in report.problems
    assert report.samples == 3


def test_one_changed_bit_is_found(dataset):
    path = first_shard(dataset)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert f"{path.name}: has another SHA-256 than the manifest says" in verify(str(dataset)).problems


def test_a_tar_cut_between_members_is_found(dataset):
    path = first_shard(dataset)
    rows = list(members_of(path).items())
    rewrite(dataset, tar_of(rows[:3]))  # tar readers see nothing wrong here
    problems = verify(str(dataset)).problems
    assert f"{path.name}: has 1 samples, the manifest says 3" in problems
    assert "split train: the manifest's pixels_per_class are not those of its labels" in problems


@pytest.mark.parametrize("cut", [0, 100, 512, 700, 2000])
def test_a_tar_cut_anywhere_gives_problems_and_no_crash(dataset, cut):
    path = first_shard(dataset)
    path.write_bytes(path.read_bytes()[:cut])
    report = verify(str(dataset))
    assert any("bytes" in problem for problem in report.problems)


@pytest.mark.parametrize("seed", range(20))
def test_noise_gives_problems_and_no_crash(dataset, seed):
    rng = np.random.default_rng(seed)
    data = bytearray(first_shard(dataset).read_bytes())
    for _ in range(20):
        start = int(rng.integers(0, len(data) // 512)) * 512  # headers lie on blocks of 512
        data[start : start + 40] = rng.bytes(40)
        data[start + 124 : start + 136] = b"77777777777\0"
    first_shard(dataset).write_bytes(data)
    assert verify(str(dataset)).problems


LARGE = np.full((16, 16), 77, np.uint8)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda m: [*m.items(), ("9.pyd", b"cos\nsystem\n.")], "is none of jpg, png, json"),
        (lambda m: [*m.items(), ("../../evil.jpg", b"x")], "is none of"),
        (lambda m: [*m.items(), next(iter(m.items()))], "is there twice"),
        (lambda m: [row for row in m.items() if not row[0].endswith(".json")], "has no json"),
        (lambda m: [(n, b"{" if n.endswith("json") else d) for n, d in m.items()], "its origin is not JSON"),
        (
            lambda m: [(n, b"x" if n.endswith("jpg") else d) for n, d in m.items()],
            "the photo: not an image",
        ),
        (lambda m: [(n, png(LARGE) if n.endswith("png") else d) for n, d in m.items()], "ids from 19 up"),
        (
            lambda m: [(n, png(LARGE[:8] * 0) if n.endswith("png") else d) for n, d in m.items()],
            "16x8, not 16x16",
        ),
        (
            lambda m: [(n, png(np.zeros((16, 16, 3), np.uint8)) if n.endswith("png") else d) for n, d in m.items()],
            "the label is PNG of mode RGB, not PNG of mode L",
        ),
        (
            lambda m: [(n, png(LARGE) if n.endswith("jpg") else d) for n, d in m.items()],
            "the photo is PNG of mode L, not JPEG of mode RGB",
        ),
    ],
)
def test_each_kind_of_damage_is_named(dataset, change, problem):
    rewrite(dataset, tar_of(change(members_of(first_shard(dataset)))))
    problems = verify(str(dataset)).problems
    assert any(problem in line for line in problems), problems
    assert not any("SHA-256" in line for line in problems)


def test_links_and_folders_are_no_members(dataset):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
            row = tarfile.TarInfo("1.jpg")
            row.type, row.linkname = kind, "/etc/passwd"
            tar.addfile(row)
    rewrite(dataset, out.getvalue())
    problems = verify(str(dataset)).problems
    assert sum("is not a plain file" in problem for problem in problems) == 4


def test_a_sparse_file_that_would_fill_the_memory_is_not_read(dataset):
    row = tarfile.TarInfo("1.jpg")
    row.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(row.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = f"{2**33 - 1:011o}\0".encode()  # the size it claims to have when unfolded: 8 GiB
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    rewrite(dataset, bytes(header) + bytes(1024))
    assert any("'1.jpg' is not a plain file" in problem for problem in verify(str(dataset)).problems)


def test_a_key_that_is_in_two_shards_is_named(dataset):
    _, second = read_manifest(str(dataset)).splits["train"].shards
    rewrite(dataset, (dataset / second.name).read_bytes())
    assert sum("twice" in problem for problem in verify(str(dataset)).problems) == 3


def test_an_object_much_larger_than_said_is_not_read(dataset):
    path = first_shard(dataset)
    with path.open("r+b") as file:
        file.truncate(2**40)
    problems = verify(str(dataset)).problems
    assert any(f"has {2**40} bytes" in problem for problem in problems)


def test_what_webdataset_s_own_writer_makes_is_readable(dataset):
    out = io.BytesIO()
    members = members_of(first_shard(dataset))
    with TarWriter(out, encoder=False) as tar:
        for key in sorted({name.partition(".")[0] for name in members}):
            tar.write({"__key__": key, **{e: members[f"{key}.{e}"] for e in ("jpg", "png", "json")}})
    rewrite(dataset, out.getvalue())
    assert verify(str(dataset)).problems == []
