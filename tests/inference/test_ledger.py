from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from vitseg.errors import DataError, NotFoundError
from vitseg.inference.ledger import (
    ALREADY_DONE,
    Listed,
    Part,
    mask_row,
    read_listing,
    read_part,
    row_without_mask,
    write_listing,
    write_part,
)
from vitseg.inference.plan import plan_job
from vitseg.storage import LocalStore, ObjectInfo

from .color_rule import model
from .conftest import put

INFO = ObjectInfo("a/1.png", 7, "etag")
METADATA = {"job": "", "seconds": "0.250000", "mean-confidence": "0.750000"}


@pytest.fixture
def job(folders):
    source, dest = folders
    for number in range(3):
        put(source, f"a/{number}.png", b"x")
    return plan_job(str(source), str(dest), model=model(), chunk_images=2)


def made(job, pixels=((0, 1), (1, 1))):
    return mask_row(job, INFO, np.array(pixels, np.uint8), METADATA | {"job": job.id}, np.arange(3, dtype=np.uint8))


def test_the_columns_are_the_contract(job):
    dest = LocalStore(Path(job.dest))
    write_part(dest, job, 0, Part([made(job), row_without_mask(INFO, "failed", "broken")], {"forward": 0.5}))
    write_part(dest, job, 1, Part([row_without_mask(INFO, "skipped", "not an image")]))
    tables = [pq.read_table(dest.folder / job.part_key(index)) for index in (0, 1)]
    assert tables[0].column_names == [
        "key", "etag", "bytes", "width", "height", "status", "error", "mask_key", "seconds", "mean_confidence",
        "class_fractions",
    ]  # fmt: skip
    assert tables[0].schema.equals(tables[1].schema)  # all nulls, same types


def test_rows_and_stages_come_back(job):
    dest = LocalStore(Path(job.dest))
    part = Part([made(job), row_without_mask(INFO, "failed", "two\n lines " * 100)], {"forward": 0.5})
    write_part(dest, job, 0, part)
    found = read_part(dest, job, 0)
    assert [row.status for row in found.rows] == ["ok", "failed"]
    assert (found.rows[0].width, found.rows[0].height, found.rows[0].seconds) == (2, 2, 0.25)
    assert list(found.rows[0].class_fractions) == [0.25, 0.75, 0]
    assert "\n" not in found.rows[1].error
    assert len(found.rows[1].error) == 500
    assert found.stages == {"forward": 0.5}
    counts = found.counts(0, written=1)
    assert (counts.ok, counts.skipped, counts.failed, counts.written) == (1, 0, 1, 1)
    assert counts.failures == ((INFO.key, found.rows[1].error),)


def test_a_mask_of_another_job_makes_a_skipped_row(job):
    row = mask_row(job, INFO, np.zeros((3, 5), np.uint8), METADATA, np.arange(3, dtype=np.uint8))
    assert (row.status, row.error, row.seconds, row.width, row.height) == ("skipped", ALREADY_DONE, None, 5, 3)
    colored = mask_row(job, INFO, np.zeros((3, 5, 3), np.uint8), METADATA, np.zeros(0, np.uint8))
    assert (colored.mean_confidence, colored.class_fractions) == (None, None)


def test_a_listing_comes_back(job):
    dest = LocalStore(Path(job.dest))
    objects = [Listed(INFO, None, made=False), Listed(ObjectInfo("b", 0, ""), "a reason", made=True)]
    write_listing(dest, job.listing_key(0), objects)
    assert read_listing(dest, job, 0) == objects
    write_listing(dest, job.listing_key(0), objects[:1])
    with pytest.raises(DataError, match="has 1 rows, not 2"):
        read_listing(dest, job, 0)


def test_what_is_missing_or_of_another_version_is_refused(job):
    dest = LocalStore(Path(job.dest))
    assert read_part(dest, job, 0) is None
    with pytest.raises(NotFoundError):
        read_listing(dest, job, 2)
    put(dest.folder, job.part_key(0), (dest.folder / job.listing_key(0)).read_bytes())
    with pytest.raises(DataError, match="other columns"):
        read_part(dest, job, 0)
