import pickle
from pathlib import Path

import pytest

from vitseg.errors import DataError, NotFoundError, UsageError
from vitseg.inference.ledger import read_listing
from vitseg.inference.plan import plan_job
from vitseg.storage import LocalStore, open_store

from .color_rule import model
from .conftest import RED, encode, plain, put, run


@pytest.fixture
def five(folders):
    source, dest = folders
    for number in range(5):
        put(source, f"city/{number}.png", encode(plain(RED)))
    return source, dest


def plan(source, dest, **options):
    return plan_job(str(source), str(dest), model=model(), **options)


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


def test_a_listing_that_is_broken_says_so(five):
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


def test_nothing_there(folders):
    source, dest = folders
    for address in (source, source / "missing"):
        with pytest.raises(NotFoundError, match="does not exist or holds no objects"):
            plan(address, dest)
    assert not dest.exists()


@pytest.mark.parametrize(
    "wrong", [{"ids": "names"}, {"also": ("colour",)}, {"chunk_images": 0}, {"batch_size": 0}, {"max_pixels": 0}]
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
