"""A job on a store that fails now and then ends as it does on one that never does."""

import io
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.faulty_store import KINDS, FaultyStore, through
from vitseg.inference.chunk import segment_chunk
from vitseg.inference.commit import commit_job
from vitseg.inference.job import Job, Options
from vitseg.inference.plan import plan_job
from vitseg.storage import open_store

from .color_rule import ColorRule, model
from .conftest import encode

PLACE = "faults"  # fixed: which requests fail depends on their addresses
IMAGES = 98
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")


def objects() -> dict[str, bytes]:
    """Return photographs of several formats, with broken and foreign files among them."""
    rng = np.random.default_rng(0)
    made = {}
    for number in range(IMAGES):
        kind = FORMATS[number % len(FORMATS)]
        height, width = rng.integers(20, 90, 2)
        coarse = Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8))
        photo = coarse.resize((int(width), int(height)), Image.Resampling.NEAREST)
        made[f"camera {number % 3}/{number:03d}.{kind.lower()}"] = encode(photo, kind)
    whole = made["camera 0/000.png"]
    return made | {
        "broken/cut.png": whole[: len(whole) // 2],
        "broken/empty.jpg": b"",
        "broken/text.tif": b"not a picture at all",
        "foreign/notes.txt": b"remember the milk",
        "foreign/classes.json": b"{}",
        "foreign/empty": b"",
    }


@pytest.fixture(scope="module")
def photos(s3: str) -> str:
    """Put the objects on the good store; return their address."""
    address = f"{s3}/{PLACE}/photos"
    store = open_store(address)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: store.write(*item), objects().items()))
    return address


def segment(source: str, dest: str) -> tuple[Job, dict[str, Any]]:
    """Do a whole job; return it, and what its summary counts."""
    job = plan_job(source, dest, model=model(), options=Options(also=("color",)), chunk_images=32, batch_size=8)
    written = sum(segment_chunk(job, index).written for index in range(job.chunks))
    summary = commit_job(job, 1.0, written)
    names = ("listed", "ok", "skipped", "failed", "bytes", "failures", "images_per_second")
    return job, {name: getattr(summary, name) for name in names}


def left_by(job: Job) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Return the ledger of a job without its seconds, and the pixels of each mask and picture."""
    store = open_store(job.dest)
    parts = [store.read(job.part_key(index)) for index in range(job.chunks)]
    rows = [row for part in parts for row in pq.read_table(io.BytesIO(part)).to_pylist()]
    for row in rows:
        assert (row.pop("seconds") is not None) == (row["status"] == "ok")

    def pixels(key: str) -> bytes:
        with Image.open(io.BytesIO(store.read(key))) as image:
            return f"{image.mode} {image.size} ".encode() + image.tobytes()

    keys = [info.key for info in store.list() if info.key.endswith(".png")]
    with ThreadPoolExecutor(8) as pool:
        return rows, dict(zip(keys, pool.map(pixels, keys), strict=True))


# The shares are of requests; a job ends early where one and the same fails six times in a row.
@pytest.mark.parametrize(("share", "stall"), [(0.05, 2.0), (0.15, 0.2)])
def test_a_store_that_fails_now_and_then_changes_nothing(
    s3: str, photos: str, rule: ColorRule, share: float, stall: float
) -> None:
    undisturbed, expected = segment(photos, f"{s3}/{PLACE}/good-{share}")
    assert [expected[name] for name in ("listed", "ok", "skipped", "failed")] == [IMAGES + 6, IMAGES, 3, 3]
    with FaultyStore(os.environ["AWS_ENDPOINT_URL_S3"], share=share, stall=stall) as proxy, through(proxy):
        job, counts = segment(photos, f"{s3}/{PLACE}/bad-{share}")
    assert set(proxy.faults) == set(KINDS)
    assert proxy.faults.total() > share * proxy.requests.total() / 2
    assert counts == expected
    rows, pixels = left_by(job)
    expected_rows, expected_pixels = left_by(undisturbed)
    assert rows == expected_rows
    assert len(expected_pixels) == 2 * IMAGES  # the mask, and its colors
    assert pixels == expected_pixels
