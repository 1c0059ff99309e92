import json
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from vitseg.errors import DataError
from vitseg.inference.chunk import segment_chunk
from vitseg.inference.commit import commit_job
from vitseg.inference.context import STAGES
from vitseg.inference.plan import plan_job

from .color_rule import model
from .conftest import RED, encode, plain, put, rows, run


@pytest.fixture
def job(folders, rule):
    source, dest = folders
    for number in range(3):
        put(source, f"{number}.png", encode(plain(RED)))
    put(source, "3.jpg", b"")
    put(source, "readme.md", b"# photos")
    return plan_job(str(source), str(dest), model=model(), chunk_images=2)


def test_the_summary_closes_the_job(job):
    for index in range(job.chunks):
        segment_chunk(job, index)
    path = Path(job.dest, job.file("summary.json"))
    assert not path.exists()
    summary = commit_job(job, 1.5)
    assert (
        {**asdict(summary), "stage_seconds": set(summary.stage_seconds)}
        == {**(read := json.loads(path.read_text())), "stage_seconds": set(read["stage_seconds"])}
        == {
            "job": job.id,
            "listed": 5,
            "ok": 3,
            "skipped": 1,
            "failed": 1,
            "bytes": job.bytes,
            "images_per_second": 2.0,
            "seconds": 1.5,
            "stage_seconds": set(STAGES),
            "price": None,
            "source": job.source,
            "dest": job.dest,
            "model": {"name": "streets", "version": "3", "sha256": "a" * 64},
            "options": {"ids": "train", "also": [], "tile": False, "flip": False, "max_pixels": 200_000_000},
            "precision": "float32",
            "failures": [{"key": "3.jpg", "error": "the object is empty"}],
            "least_confident": str(path.with_name("least-confident.jpg")),
            "summary": str(path),
        }
    )


def test_the_rate_counts_what_was_made_in_the_time(job):
    for index in range(job.chunks):
        segment_chunk(job, index)
    assert commit_job(job, 2.0, written=1).images_per_second == 0.5


def test_a_chunk_that_is_missing_or_short_is_no_finished_job(job):
    for index in (0, 2):
        segment_chunk(job, index)
    with pytest.raises(DataError, match=r"1 of 3 chunks have no result \(1\)"):
        commit_job(job, 1.0)
    segment_chunk(job, 1)
    part = Path(job.dest, job.part_key(1))
    pq.write_table(pq.read_table(part).slice(0, 1), part)
    with pytest.raises(DataError, match="1 rows for 2 objects"):
        commit_job(job, 1.0)
    part.write_bytes(b"PAR1")
    with pytest.raises(DataError, match="parquet"):
        commit_job(job, 1.0)
    assert not Path(job.dest, job.file("summary.json")).exists()


def test_the_summary_names_20_failures_the_ledger_all(folders, rule):
    source, dest = folders
    for number in range(30):
        put(source, f"{number:02}.jpg", b"")
    job, summary = run(source, dest)
    assert summary.failed == 30
    assert [failure["key"] for failure in summary.failures] == [f"{number:02}.jpg" for number in range(20)]
    assert len(rows(job)) == 30
