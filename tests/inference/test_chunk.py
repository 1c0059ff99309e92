import multiprocessing
import random
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from vitseg.errors import AccessError, DataError, StorageError
from vitseg.inference import chunk, predict
from vitseg.inference.chunk import segment_chunk
from vitseg.inference.ledger import read_part
from vitseg.inference.plan import plan_job
from vitseg.masks import read_mask_metadata
from vitseg.storage import LocalStore

from . import color_rule
from .color_rule import model
from .conftest import BLUE, GREEN, RED, encode, halves, plain, put, read_ids, rows, run


def test_a_second_run_makes_nothing_again(folders, rule):
    source, dest = folders
    for number in range(6):
        put(source, f"{number}.png", encode(halves()))
    first, _ = run(source, dest)
    times = {path: path.stat().st_mtime_ns for path in dest.glob("*.png")}
    second, summary = run(source, dest)
    assert (summary.ok, summary.skipped, summary.images_per_second) == (0, 6, 0)
    assert {path: path.stat().st_mtime_ns for path in dest.glob("*.png")} == times
    known = ("key", "etag", "bytes", "width", "height", "mask_key", "mean_confidence", "class_fractions")
    for before, after in zip(rows(first), rows(second), strict=True):
        assert (after["status"], after["error"]) == ("skipped", "already done")
        assert [after[name] for name in known] == [before[name] for name in known]


def test_another_model_than_planned_stops_the_chunk(folders, rule):
    source, dest = folders
    put(source, "x.png", encode(plain(BLUE)))
    with pytest.raises(DataError, match="b" * 64):
        run(source, dest, sha256="b" * 64)


def test_a_model_without_numbers_stops_the_chunk(folders, rule, monkeypatch):
    source, dest = folders
    put(source, "x.png", encode(plain(BLUE)))
    monkeypatch.setattr(rule, "predict", lambda images, moments: images.float() * float("nan"))
    with pytest.raises(DataError, match="not numbers"):
        run(source, dest)
    assert not (dest / "x.png.png").exists()


def test_a_finished_chunk_is_left_alone(folders, rule):
    source, dest = folders
    put(source, "x.png", encode(plain(BLUE)))
    job = plan_job(str(source), str(dest), model=model())
    first = segment_chunk(job, 0)
    assert (first.ok, first.written) == (1, 1)
    (dest / "x.png.png").unlink()
    again = segment_chunk(job, 0)
    assert (again.ok, again.written) == (1, 0)
    assert not (dest / "x.png.png").exists()


def test_a_destination_that_cannot_be_written_stops_the_chunk(folders, rule, monkeypatch):
    source, dest = folders
    for number in range(40):
        put(source, f"{number}.png", encode(plain(BLUE)))
    job = plan_job(str(source), str(dest), model=model(), batch_size=2)
    write = LocalStore.write
    tried = []

    def full(self, key, data, **options):
        tried.append(key)
        if key.endswith("png"):
            raise StorageError("no space left on device")
        return write(self, key, data, **options)

    monkeypatch.setattr(LocalStore, "write", full)
    with pytest.raises(StorageError, match="no space"):
        segment_chunk(job, 0)
    assert len(tried) < 40  # it does not go on for long
    assert not Path(job.dest, job.part_key(0)).exists()
    monkeypatch.undo()


def test_memory_stays_bounded_by_what_waits(folders, rule, monkeypatch):
    source, dest = folders
    monkeypatch.setattr(chunk, "_PIXELS_BEHIND", 3 * 13 * 21)
    for number in range(30):
        put(source, f"{number}.png", encode(plain(BLUE)))
    waiting, most = 0, 0
    lock = threading.Lock()
    upsample, write = predict.upsample_scores, chunk.write_object

    def count(by):
        nonlocal waiting, most
        with lock:
            waiting += by
            most = max(most, waiting)

    def predicted(*arguments):
        count(1)
        return upsample(*arguments)

    def written(*arguments):
        time.sleep(0.03)
        row = write(*arguments)
        count(-1)
        return row

    monkeypatch.setattr(predict, "upsample_scores", predicted)
    monkeypatch.setattr(chunk, "write_object", written)
    assert run(source, dest, batch_size=10, chunk_images=30)[1].ok == 30
    assert 2 <= most <= 4  # three behind, and one that waits for room


def test_what_failed_is_tried_again_and_the_rest_left_alone(folders, rule, monkeypatch):
    source, dest = folders
    for name in "abc":
        put(source, f"{name}.png", encode(plain(BLUE)))
    put(source, "broken.png", b"no picture")
    job = plan_job(str(source), str(dest), model=model())
    read = LocalStore.read_tagged
    asked = []

    def broken(self, key):
        asked.append(key)
        if key == "b.png":
            raise StorageError("no luck")
        return read(self, key)

    monkeypatch.setattr(LocalStore, "read_tagged", broken)
    first = segment_chunk(job, 0)
    assert (first.ok, first.failed) == (2, 2)
    assert dict(first.failures)["b.png"] == "no luck"
    monkeypatch.setattr(LocalStore, "read_tagged", lambda self, key: (asked.append(key), read(self, key))[1])
    asked.clear()
    again = segment_chunk(job, 0)
    assert (again.ok, again.failed, again.written) == (3, 1, 1)
    assert sorted(key for key in asked if (source / key).exists()) == ["b.png", "broken.png"]
    assert [row["status"] for row in rows(job)] == ["ok", "ok", "failed", "ok"]


def test_progress_counts_every_object_once(folders, rule):
    source, dest = folders
    for number in range(7):
        put(source, f"{number}.png", encode(plain(RED)) if number % 2 else b"")
    job = plan_job(str(source), str(dest), model=model())
    seen = []
    segment_chunk(job, 0, progress=seen.append)
    assert sum(seen) == 7
    assert len(seen) >= 7
    seen.clear()
    segment_chunk(job, 0, progress=seen.append)
    assert sum(seen) == 7


def test_what_a_first_attempt_took_is_not_forgotten(folders, rule):
    source, dest = folders
    put(source, "a.png", encode(halves(300, 200)))
    put(source, "b.png", b"broken")
    job = plan_job(str(source), str(dest), model=model())
    segment_chunk(job, 0)
    before = read_part(LocalStore(dest), job, 0).stages
    segment_chunk(job, 0)
    after = read_part(LocalStore(dest), job, 0).stages
    assert after["forward"] == before["forward"] > 0
    assert after["fetch"] > before["fetch"]


def test_who_may_not_delete_may_segment(folders, rule, monkeypatch):
    source, dest = folders
    put(source, "a.png", encode(plain(RED)))

    def refused(self, key):
        raise AccessError("no DeleteObject")

    monkeypatch.setattr(LocalStore, "delete", refused)
    assert run(source, dest)[1].ok == 1


def test_reading_runs_no_further_ahead_than_it_may(folders, rule, monkeypatch):
    source, dest = folders
    for number in range(60):
        put(source, f"{number:02}.png", encode(plain(BLUE)))
    count, most = 0, 0
    read, forward = chunk.read_object, predict.forward
    lock = threading.Lock()

    def reading(*arguments):
        nonlocal count, most
        with lock:
            count += 1
            most = max(most, count)
        return read(*arguments)

    def predicting(bundle, images, *arguments, **options):
        nonlocal count
        time.sleep(0.01)
        with lock:
            count -= len(images)
        return forward(bundle, images, *arguments, **options)

    monkeypatch.setattr(chunk, "read_object", reading)
    monkeypatch.setattr(predict, "forward", predicting)
    assert run(source, dest, batch_size=2, chunk_images=60)[1].ok == 60
    assert most <= 2 * chunk._READERS + 2 + 1
    monkeypatch.setattr(chunk, "_BYTES_AHEAD", 1)  # each object alone is more than may wait
    count = most = 0
    assert run(source, dest, batch_size=2, chunk_images=60, ids="label")[1].ok == 60
    assert most <= 2


def test_killed_at_20_moments_the_job_ends_as_if_undisturbed(folders, rule):
    source, dest = folders
    rng = random.Random(5)
    for number in range(60):
        color = rng.choice([RED, GREEN, BLUE])
        put(source, f"{number:02}.png", encode(plain(color, rng.randint(1, 40), rng.randint(1, 40))))
    put(source, "55.jpg", b"broken")
    put(source, "56.txt", b"text")
    # A fork server that has everything imported: a process in milliseconds, and no threads of ours in it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vitseg.inference.plan", "vitseg.inference.chunk"])
    for masks in sorted(rng.sample(range(56), 20)):
        process = context.Process(target=color_rule.segment_slowly, args=(str(source), str(dest)))
        process.start()
        while len(list(dest.glob("*.png"))) < masks and process.is_alive():
            time.sleep(0.002)
        time.sleep(rng.random() * 0.02)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert 0 < len(list(dest.glob("*.png"))) < 60
    job, summary = run(source, dest)
    calm = dest.with_name("calm")
    calm_job, calm_summary = run(source, calm, chunk_images=10)
    assert job.chunks == calm_job.chunks == 7  # the killed run's chunks, not those asked for after it
    assert (summary.ok, summary.skipped, summary.failed) == (60, 1, 1)
    assert (calm_summary.ok, calm_summary.skipped, calm_summary.failed) == (60, 1, 1)

    def table(of):
        return [{**row, "seconds": row["seconds"] is not None} for row in rows(of)]

    assert table(job) == table(calm_job)
    assert sorted(path.name for path in dest.glob("*.png")) == sorted(path.name for path in calm.glob("*.png"))
    for path in calm.glob("*.png"):
        assert np.array_equal(read_ids(path), read_ids(dest / path.name))
        ours, theirs = (read_mask_metadata(file.read_bytes()) for file in (path, dest / path.name))
        assert {**ours, "job": "", "seconds": ""} == {**theirs, "job": "", "seconds": ""}
