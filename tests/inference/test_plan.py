import pickle
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.memory_s3 import memory_s3
from vitseg.errors import DataError, NotFoundError, UsageError
from vitseg.inference.ledger import read_listing
from vitseg.inference.plan import MaskIndex, _chunk_size, another_source, list_source, plan_job
from vitseg.inference.read import A_MASK
from vitseg.storage import LocalStore, ObjectInfo, canonical, open_store

from .color_rule import model
from .conftest import RED, encode, gather_options, plain, put, rows, run


@pytest.fixture
def five(folders):
    source, dest = folders
    for number in range(5):
        put(source, f"city/{number}.png", encode(plain(RED)))
    return source, dest


def plan(source, dest, **options):
    return plan_job(str(source), str(dest), model=model(), **gather_options(options))


def keys(job):
    store = open_store(job.dest)
    return [[item.info.key for item in read_listing(store, job, index)] for index in range(job.chunks)]


def test_the_listing_is_frozen_in_chunks(five):
    seen = []
    job = plan(*five, chunk_images=2, progress=seen.append)
    assert keys(job) == [["city/0.png", "city/1.png"], ["city/2.png", "city/3.png"], ["city/4.png"]]
    assert (job.listed, job.chunks, [job.size(index) for index in range(3)]) == (5, 3, [2, 2, 1])
    assert job.bytes == 5 * len(encode(plain(RED)))
    assert seen == [2, 4, 5]
    assert pickle.loads(pickle.dumps(job)) == job
    assert len(pickle.dumps(job)) < 2000


def test_an_unfinished_job_keeps_its_listing_and_a_finished_one_is_followed_by_a_new(five, rule):
    source, dest = five
    first = plan(source, dest, chunk_images=2)
    put(source, "city/9.png", encode(plain(RED)))
    again = plan(source, dest, chunk_images=64)
    assert again == first
    job, _ = run(source, dest)
    assert job.id == first.id
    second = plan(source, dest, chunk_images=64)
    assert second.id == first.id.removesuffix("1") + "2"
    assert second.listed == 6


def test_a_listing_that_was_cut_off_is_made_anew(five):
    source, dest = five
    first = plan(source, dest, chunk_images=2)
    Path(dest, "_vitseg", first.id, "listing.json").unlink()
    put(source, "a.png", encode(plain(RED)))
    again = plan(source, dest, chunk_images=4)
    assert again.id == first.id
    assert keys(again) == [["a.png", "city/0.png", "city/1.png", "city/2.png"], ["city/3.png", "city/4.png"]]


def test_two_that_begin_at_once_work_on_one_listing(five, monkeypatch):
    source, dest = five
    write, other = LocalStore.write, []

    def meanwhile(self, key, data, **options):
        if key.endswith("listing.json") and not other:
            other.append(None)
            put(source, "city/7.png", encode(plain(RED)))
            other.append(plan(source, dest, chunk_images=2))
        return write(self, key, data, **options)

    monkeypatch.setattr(LocalStore, "write", meanwhile)
    ours = plan(source, dest, chunk_images=3)
    assert ours == other[1]
    assert [len(chunk) for chunk in keys(ours)] == [2, 2, 2]
    assert len({key for chunk in keys(ours) for key in chunk}) == 6


def test_a_broken_listing_is_refused_with_the_remedy(five):
    job = plan(*five)
    Path(job.dest, job.file("listing.json")).write_text("{}")
    with pytest.raises(DataError, match="delete it"):
        plan(*five)
    Path(job.dest, job.file("listing.json")).unlink()
    Path(job.dest, job.listing_key(0)).write_bytes(b"no parquet")
    with pytest.raises(DataError, match="parquet"):
        read_listing(open_store(job.dest), job, 0)


def test_what_decides_the_masks_decides_the_job(five):
    source, dest = five
    ids = {
        plan(source, dest).id,
        plan(source, dest, ids="label").id,
        plan(source, dest, also=("color",)).id,
        plan(source, dest, tile=True).id,
        plan(source, dest, max_pixels=1000).id,
        plan(source, Path(dest, "other")).id,
        plan(Path(source, "city"), dest).id,
        plan_job(str(source), str(dest), model=model("b" * 64)).id,
    }
    assert len(ids) == 8
    same = [plan(source, dest, batch_size=1, chunk_images=1), plan(f"{source}/", f"{dest}/../masks")]
    assert {job.id for job in same} == {plan(source, dest).id}


def test_a_relative_address_is_the_same_job_for_workers_elsewhere(five, monkeypatch):
    source, dest = five
    monkeypatch.chdir(source.parent)
    job = plan("photos", "masks")
    assert job == plan(source, dest)
    assert Path(job.root).is_absolute()


def test_masks_may_lie_among_the_images_and_are_not_listed(five, rule):
    source, _ = five
    dest = source / "masks"
    run(source, dest)
    _, summary = run(source, dest)
    assert summary.listed == 5
    assert summary.skipped == 5
    put(source, "masks2/x.png", encode(plain(RED)))  # only equal names are ours, not equal beginnings
    put(source, "_vitseg/x.png", encode(plain(RED)))
    assert plan(source, dest).listed == 6


def test_the_source_itself_is_no_destination(five):
    source, _ = five
    with pytest.raises(UsageError, match="of their own"):
        plan(source, source)


def test_a_single_file_is_a_source(five, rule):
    source, dest = five
    _, summary = run(source / "city/3.png", dest)
    assert (summary.listed, summary.ok) == (1, 1)
    assert summary.source == str(source / "city/3.png")
    assert (dest / "3.png.png").is_file()


@pytest.mark.parametrize(
    ("source", "root", "listed"),
    [
        ("s3://bucket//photos", "s3://bucket//photos", ["a.jpg"]),
        ("s3://bucket/photos/", "s3://bucket/photos", ["b.jpg", "/c.jpg"]),
        ("s3://bucket/photos//", "s3://bucket/photos//", ["c.jpg"]),
        ("s3://bucket//", "s3://bucket//", ["photos/a.jpg"]),
        ("s3://bucket//photos/a.jpg", "s3://bucket//photos", ["a.jpg"]),
        ("s3://bucket/photos/b.jpg", "s3://bucket/photos", ["b.jpg"]),
        ("s3://bucket/photos//c.jpg", "s3://bucket/photos//", ["c.jpg"]),
        ("s3://bucket/d.jpg", "s3://bucket", ["d.jpg"]),
    ],
)
def test_slashes_of_an_address_lead_to_the_photographs_that_are_meant(source, root, listed):
    with memory_s3() as server:
        for key in ("/photos/a.jpg", "photos/b.jpg", "photos//c.jpg", "d.jpg"):
            server.put(key, key.encode())
        found, objects = list_source(canonical(source), "/masks")
        keys = [info.key for info in objects]
        assert (found, sorted(keys)) == (root, sorted(listed))
        full = root.removeprefix("s3://bucket/") if root != "s3://bucket" else ""
        prefix = full if not full or full.endswith("/") else f"{full}/"
        assert [open_store(found).read(key).decode() for key in keys] == [prefix + key for key in keys]
        for missing in ("s3://bucket/a.jpg", "s3://bucket//b.jpg", "s3://bucket//d.jpg", "s3://bucket/photos/c.jpg"):
            with pytest.raises(NotFoundError):
                list_source(canonical(missing), "/masks")


def test_an_object_that_is_a_prefix_too_is_no_source():
    with memory_s3() as server:
        for key in ("photos/a.jpg", "photos/a.jpg/b.jpg", "set/c.jpg", "set"):
            server.put(key, b"x")
        with pytest.raises(UsageError, match=r"s3://bucket/photos/a\.jpg is an object, and b\.jpg lies under it"):
            list_source("s3://bucket/photos/a.jpg", "/masks")
        assert len(list(list_source("s3://bucket/photos", "/masks")[1])) == 2
        assert [info.key for info in list_source("s3://bucket/set", "/masks")[1]] == ["c.jpg"]


def test_masks_under_an_odd_prefix_are_not_listed_with_the_photographs():
    with memory_s3() as server:
        for key in ("a.jpg", "/masks/a.jpg.png", "masks/b.jpg", "//c.jpg"):
            server.put(key, b"x")
        for dest, listed in {
            "s3://bucket//masks": ["//c.jpg", "a.jpg", "masks/b.jpg"],
            "s3://bucket//": ["a.jpg", "masks/b.jpg"],
        }.items():
            _, objects = list_source("s3://bucket", canonical(dest))
            assert [info.key for info in objects] == listed


def test_nothing_there(folders):
    source, dest = folders
    for address in (source, source / "missing"):
        with pytest.raises(NotFoundError, match="does not exist or holds no objects"):
            plan(address, dest)
    assert not dest.exists()


@pytest.mark.parametrize(
    "wrong", [{"ids": "names"}, {"also": ("colors",)}, {"chunk_images": 0}, {"batch_size": 0}, {"max_pixels": 0}]
)
def test_wrong_options_start_nothing(five, wrong):
    with pytest.raises(UsageError):
        plan(*five, **wrong)
    assert not five[1].exists()


def test_keys_that_no_folder_can_hold_are_rows_not_paths(five, rule, monkeypatch):
    source, dest = five
    odd = ["/etc/x.png", "a/../../x.png", "a//b.png", "n" * 252 + ".png", "d/" * 2000 + "x.png", "\udcff.png"]
    listed = LocalStore.list

    def listing(self, prefix=""):
        for first in listed(self, prefix):
            yield first
            if first.key == "city/0.png":
                yield from (type(first)(key, 1, "etag") for key in odd)

    monkeypatch.setattr(LocalStore, "list", listing)
    _, summary = run(source, dest)
    assert (summary.ok, summary.failed) == (5, len(odd))
    assert {failure["key"] for failure in summary.failures} == {*odd[:-1], "\\udcff.png"}
    assert sorted(path.name for path in dest.parent.iterdir()) == ["masks", "photos"]


@settings(max_examples=30)
@given(st.sets(st.text(min_size=1, max_size=12), max_size=30), st.sets(st.text(min_size=1, max_size=12), max_size=30))
def test_a_mask_that_lies_there_is_never_overlooked(made, others):
    found = MaskIndex(f"{key}.png" for key in made)
    assert all(found.may_have(key) for key in made)
    assert not any(found.may_have(key) for key in others - made)  # four bytes tell so few apart


@pytest.mark.parametrize(
    ("listed", "workers", "wanted"),
    [(1, 2, 1), (20, 2, 10), (128, 2, 16), (1000, 2, 125), (1000, 1, 250), (100_000, 4, 256), (7, 64, 1)],
)
def test_every_worker_of_a_small_job_has_chunks(listed, workers, wanted):
    assert _chunk_size(listed, workers) == wanted


def test_chunks_suit_the_number_of_objects_unless_a_size_is_given(folders):
    source, dest = folders
    for number in range(40):
        put(source, f"{number:02}.png", b"x")
    assert plan(source, dest, workers=2).chunk_images == 16
    assert plan(source, dest / "other", workers=2, chunk_images=7).chunks == 6
    job = plan(source, dest / "one")
    assert (job.chunk_images, job.listed, job.chunks) == (16, 40, 3)
    assert sorted(key for chunk in keys(job) for key in chunk) == [f"{number:02}.png" for number in range(40)]


def test_planning_a_large_bucket_takes_memory_for_a_page_and_four_bytes_a_mask(folders, monkeypatch):
    source, dest = folders
    source_root = LocalStore(source).root
    count = 0

    def listing(self, prefix=""):
        suffix = "" if self.root == source_root else ".png"
        for number in range(count):
            yield ObjectInfo(f"folder-{number % 97}/a-photograph-with-a-long-name-{number:08}.jpg{suffix}", 1, "0" * 32)

    monkeypatch.setattr(LocalStore, "list", listing)
    write = LocalStore.write

    def forget(self, key, data, **options):
        return write(self, key, data, **options) if key.endswith("listing.json") else True

    monkeypatch.setattr(LocalStore, "write", forget)
    peaks = []
    for count in (3_000, 60_000):
        tracemalloc.start()
        job = plan(source, dest / str(count), chunk_images=256)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert job.listed == count
    assert peaks[1] - peaks[0] < 60_000 * 20  # a million objects: less than 20 MB more than three thousand


def test_masks_of_an_earlier_job_are_no_photographs(five, rule):
    source, dest = five
    _, first = run(source, source / "out")  # inside the source, where a later job with another DEST finds them
    assert first.ok == 5
    job, again = run(source, dest)
    assert (again.ok, again.skipped, again.listed) == (5, 5, 10)
    assert {row["error"] for row in rows(job) if row["status"] == "skipped"} == {A_MASK}


def test_another_source_of_the_same_masks_is_known(five, tmp_path):
    source, dest = five
    put(tmp_path / "more", "city/0.png", encode(plain(RED)))
    assert another_source(plan(source, dest)) is None
    assert another_source(plan(source, dest, tile=True)) is None
    assert another_source(plan(tmp_path / "more", dest)) == str(source)
    assert another_source(plan(source, dest, flip=True)) == str(tmp_path / "more")
