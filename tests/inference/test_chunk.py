import multiprocessing
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vitseg.architecture import Architecture
from vitseg.errors import AccessError, DataError, StorageError
from vitseg.inference import answer, chunk, objects
from vitseg.inference import model as model_module
from vitseg.inference.chunk import segment_chunk
from vitseg.inference.commit import commit_job
from vitseg.inference.job import ModelRef, Options
from vitseg.inference.ledger import read_part
from vitseg.inference.plan import plan_job
from vitseg.labels import train_classes
from vitseg.masks import read_mask_metadata
from vitseg.model.bundle import load_bundle, save_bundle
from vitseg.model.segmenter import build_model
from vitseg.storage import LocalStore

from . import color_rule
from .color_rule import model
from .conftest import BLUE, GREEN, RED, encode, plain, put, read_ids, rows, run

OTHER = "b" * 64


def halves(width=24, height=16):
    image = plain(RED, width, height)
    image.paste(plain(BLUE, width - width // 2, height), (width // 2, 0))
    return image


def test_masks_have_the_size_of_their_image_and_the_class_of_its_colors(folders, rule):
    source, dest = folders
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn: 21 x 13 is shown as 13 x 21
    put(source, "rgb.png", encode(plain(GREEN, 37, 1)))
    put(source, "gray.jpg", encode(Image.new("L", (5, 7), 99), "JPEG"))
    put(source, "cmyk.jpg", encode(plain(BLUE, 300, 11).convert("CMYK"), "JPEG"))
    put(source, "palette.gif", encode(plain(GREEN), "GIF"))
    put(source, "alpha.webp", encode(plain(BLUE).convert("RGBA"), "WEBP"))
    put(source, "deep.tif", encode(np.full((9, 4), 40_000, np.uint16), "TIFF"))
    put(source, "turned.jpg", encode(plain(RED), "JPEG", exif=exif))
    put(source, "halves.png", encode(halves()))
    put(source, "no_extension", encode(plain(BLUE, 2, 2)))
    put(source, "named_wrong.jpg", encode(plain(GREEN, 3, 3)))  # a PNG: its content counts
    _, summary = run(source, dest)
    assert (summary.ok, summary.skipped, summary.failed) == (10, 0, 0)

    def same(name, class_id, height, width):
        return np.array_equal(read_ids(dest / f"{name}.png"), np.full((height, width), class_id))

    assert same("rgb.png", 1, 1, 37)
    assert same("gray.jpg", 0, 7, 5)
    assert same("cmyk.jpg", 2, 11, 300)
    assert same("palette.gif", 1, 13, 21)
    assert same("alpha.webp", 2, 13, 21)
    assert same("deep.tif", 0, 9, 4)
    assert same("turned.jpg", 0, 21, 13)
    assert same("no_extension", 2, 2, 2)
    assert same("named_wrong.jpg", 1, 3, 3)
    assert np.array_equal(read_ids(dest / "halves.png.png"), np.repeat([[0] * 12 + [2] * 12], 16, 0))


def test_every_object_has_one_row(folders, rule):
    source, dest = folders
    good = encode(halves())
    put(source, "a/good.png", good)
    put(source, "a/good.jpg", encode(halves(), "JPEG"))  # the same stem
    put(source, "a/empty.jpg", b"")
    put(source, "a/cut.png", good[: len(good) // 2])
    put(source, "a/text.jpg", b"no picture\nat all")
    put(source, "a/large.png", encode(plain(RED, 40, 40)))
    put(source, "notes.txt", b"no picture")
    put(source, "classes.json", b"{}")
    put(source, "empty", b"")
    job, summary = run(source, dest, max_pixels=1000)
    table = {row["key"]: row for row in rows(job)}
    assert [row["key"] for row in rows(job)] == [info.key for info in LocalStore(source).list()]
    assert len(table) == len(rows(job)) == summary.listed == 9
    assert {key: row["status"] for key, row in table.items()} == {
        "a/good.png": "ok", "a/good.jpg": "ok", "a/empty.jpg": "failed", "a/cut.png": "failed",
        "a/text.jpg": "failed", "a/large.png": "failed", "notes.txt": "skipped", "classes.json": "skipped",
        "empty": "skipped",
    }  # fmt: skip
    assert (summary.ok, summary.skipped, summary.failed) == (2, 3, 4)
    assert table["notes.txt"]["error"] == "not an image"
    assert "40x40" in table["a/large.png"]["error"]
    assert "empty" in table["a/empty.jpg"]["error"]
    assert all("\n" not in row["error"] for row in table.values() if row["error"])
    row = table["a/good.png"]
    assert (row["width"], row["height"], row["bytes"]) == (24, 16, len(good))
    assert (row["mask_key"], row["error"]) == ("a/good.png.png", None)
    assert row["class_fractions"] == [0.5, 0, 0.5]
    assert 0.9 < row["mean_confidence"] <= 1
    assert 0 < row["seconds"] < 60
    made = {path.relative_to(dest).as_posix() for path in dest.rglob("*.png")}
    assert made == {"a/good.png.png", "a/good.jpg.png"}


def test_the_mask_says_where_it_comes_from(folders, rule):
    source, dest = folders
    put(source, "Straße 100%/日 本.png", encode(plain(RED)))
    job, _ = run(source, dest)
    metadata = read_mask_metadata((dest / "Straße 100%/日 本.png.png").read_bytes())
    row = rows(job)[0]
    assert metadata.pop("seconds") == f"{row['seconds']:.6f}"
    assert metadata.pop("mean-confidence") == f"{row['mean_confidence']:.6f}"
    assert metadata == {
        "source-etag": row["etag"],
        "source-key": "Straße 100%/日 本.png",
        "model-name": "streets",
        "model-version": "3",
        "model-sha256": "a" * 64,
        "options": "ids=train also= tile=false",
        "job": job.id,
    }


def test_label_ids_in_the_file_train_ids_in_the_row(folders, rule):
    source, dest = folders
    put(source, "x.png", encode(halves()))
    job, _ = run(source, dest, ids="label")
    assert read_ids(dest / "x.png.png")[0].tolist() == [7] * 12 + [26] * 12
    with Image.open(dest / "x.png.png") as mask:
        assert mask.convert("RGB").getpixel((20, 3)) == (0, 0, 200)
    assert rows(job)[0]["class_fractions"] == [0.5, 0, 0.5]


@pytest.mark.parametrize("tile", [False, True])
def test_pictures_beside_the_masks(folders, rule, tile):
    source, dest = folders
    put(source, "a/x.png", encode(halves()))
    put(source, "doubt.png", encode(plain((90, 90, 90), 9, 7)))
    put(source, "a/x.png.color", encode(plain(GREEN)))  # no name of an object can meet one of ours
    run(source, dest, also=("overlay", "color", "confidence"), tile=tile)
    also = dest / "_vitseg/also"
    color = np.asarray(Image.open(also / "color/a/x.png.png"))
    assert color[3, 3].tolist() == [200, 0, 0]
    assert color[3, 20].tolist() == [0, 0, 200]
    laid = np.asarray(Image.open(also / "overlay/a/x.png.jpg")).astype(int)
    assert np.abs(laid[8, 3] - [225, 10, 5]).max() < 6  # half of photo and color
    confidence = np.asarray(Image.open(also / "confidence/a/x.png.png"))
    assert confidence.shape == color.shape[:2] == laid.shape[:2] == (16, 24)
    assert confidence.min() > 250
    doubt = np.asarray(Image.open(also / "confidence/doubt.png.png"))
    assert doubt.shape == (7, 9)
    assert (doubt == 85).all()  # one in three
    assert read_ids(dest / "a/x.png.color.png").tolist() == [[1] * 21] * 13


def test_tiles_keep_what_shrinking_loses(folders, rule):
    source, dest = folders
    image = plain(RED, 61, 43)
    image.putpixel((50, 40), BLUE)
    put(source, "x.png", encode(image))
    run(source, dest)
    assert not read_ids(dest / "x.png.png").any()
    run(source, dest, tile=True)
    assert np.argwhere(read_ids(dest / "x.png.png") == 2).tolist() == [[40, 50]]


def test_every_tile_is_seen_in_the_light_of_its_photograph(folders, rule):
    source, dest = folders
    image = halves(61, 43)
    put(source, "x.png", encode(image))
    run(source, dest)
    assert rule.moments == [None]
    run(source, dest, tile=True)
    pixels = np.asarray(image, np.float64)
    assert len(rule.moments) > 5
    for moments in rule.moments[1:]:
        assert moments == pytest.approx((pixels.mean(), pixels.std()))


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


def test_only_what_changed_is_made_again(folders, rule):
    source, dest = folders
    for number in range(6):
        put(source, f"{number}.png", encode(plain(RED)))
    run(source, dest)
    put(source, "2.png", encode(plain(GREEN)))
    (dest / "3.png.png").unlink()
    (dest / "4.png.png").write_bytes((dest / "4.png.png").read_bytes()[:-30])
    (dest / "5.png.png").write_bytes(b"no mask")
    job, summary = run(source, dest)
    assert {row["key"] for row in rows(job) if row["status"] == "ok"} == {"2.png", "3.png", "4.png", "5.png"}
    assert summary.skipped == 2
    assert read_ids(dest / "2.png.png").tolist() == [[1] * 21] * 13
    assert not read_ids(dest / "4.png.png").any()


def test_a_new_model_or_new_options_make_all_again(folders, rule):
    source, dest = folders
    put(source, "x.png", encode(plain(BLUE)))
    run(source, dest)
    assert run(source, dest, ids="label")[1].ok == 1
    assert read_ids(dest / "x.png.png")[0, 0] == 26
    rule.sha256 = OTHER
    assert run(source, dest, sha256=OTHER, ids="label")[1].ok == 1
    assert read_mask_metadata((dest / "x.png.png").read_bytes())["model-sha256"] == OTHER


def test_another_model_than_planned_stops_the_chunk(folders, rule):
    source, dest = folders
    put(source, "x.png", encode(plain(BLUE)))
    with pytest.raises(DataError, match=OTHER):
        run(source, dest, sha256=OTHER)


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


def test_an_object_that_vanished_is_a_row(folders, rule):
    source, dest = folders
    put(source, "x.png", encode(plain(BLUE)))
    put(source, "y.png", encode(plain(BLUE)))
    job = plan_job(str(source), str(dest), model=model())
    (source / "x.png").unlink()
    counts = segment_chunk(job, 0)
    assert (counts.ok, counts.failed) == (1, 1)
    assert "not there any more" in rows(job)[0]["error"]


@pytest.mark.parametrize("error", [AccessError, StorageError])
def test_an_object_that_cannot_be_read_is_a_row(folders, rule, monkeypatch, error):
    source, dest = folders
    for name in "abc":
        put(source, f"{name}.png", encode(plain(BLUE)))
    job = plan_job(str(source), str(dest), model=model())
    refuse(monkeypatch, error)
    assert segment_chunk(job, 0).failed == 1
    assert [row["error"] for row in rows(job)] == [None, "no luck", None]


def test_refused_credentials_stop_the_chunk(folders, rule, monkeypatch):
    source, dest = folders
    for name in "abc":
        put(source, f"{name}.png", encode(plain(BLUE)))
    job = plan_job(str(source), str(dest), model=model())
    refuse(monkeypatch, AccessError)

    def refused(self, prefix=""):
        raise AccessError("not even a listing")

    monkeypatch.setattr(LocalStore, "list", refused)
    with pytest.raises(AccessError, match="not even a listing"):
        segment_chunk(job, 0)
    assert not Path(job.dest, job.part_key(0)).exists()


def refuse(monkeypatch, error):
    read = LocalStore.read_tagged

    def broken(self, key):
        if key == "b.png":
            raise error("no luck")
        return read(self, key)

    monkeypatch.setattr(LocalStore, "read_tagged", broken)


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
    predict, write = answer.predict_resized, chunk.write_object

    def count(by):
        nonlocal waiting, most
        with lock:
            waiting += by
            most = max(most, waiting)

    def predicted(*arguments):
        count(1)
        return predict(*arguments)

    def written(*arguments):
        time.sleep(0.03)
        row = write(*arguments)
        count(-1)
        return row

    monkeypatch.setattr(answer, "predict_resized", predicted)
    monkeypatch.setattr(chunk, "write_object", written)
    assert run(source, dest, batch_size=10, chunk_images=30)[1].ok == 30
    assert 2 <= most <= 4  # three behind, and one that waits for room


@pytest.mark.parametrize("target", ["classes", "rgb"])
def test_a_real_bundle(folders, target):
    source, dest = folders
    arch = Architecture(patch_size=8, encoder_projection=8, blocks=1, heads=1, head_width=4, mlp_units=(8,),
                        decoder_projection=8, decoder_mlp_units=(8,), target=target)  # fmt: skip
    size = (16, 24)
    network = build_model(arch, size, 19, seed=1)
    folder = dest.with_name("bundle")
    sha256 = save_bundle(folder, network, train_classes())
    rng = np.random.default_rng(0)
    photos = {f"{number}.png": rng.integers(0, 256, (*size, 3), np.uint8) for number in range(3)}
    for name, photo in photos.items():
        put(source, name, encode(photo))
    reference = ModelRef(name="streets", version="1", sha256=sha256, folder=str(folder))
    job = plan_job(str(source), str(dest), model=reference)
    assert segment_chunk(job, 0).ok == 3
    bundle = load_bundle(folder)
    for name, photo in photos.items():  # of the model's own size: nothing is resized
        scores = bundle.predict(torch.from_numpy(photo).permute(2, 0, 1)[None])
        assert np.array_equal(read_ids(dest / f"{name}.png"), scores[0].argmax(0).cpu().numpy())
    assert all(sum(row["class_fractions"]) == pytest.approx(1) for row in rows(job))
    (folder / "model.safetensors").unlink()
    assert (
        segment_chunk(plan_job(str(source), str(dest), model=reference, options=Options(ids="label")), 0).ok == 3
    )  # from memory


def test_the_model_is_loaded_once_a_process(folders, rule, monkeypatch):
    source, dest = folders
    for number in range(8):
        put(source, f"{number}.png", encode(plain(BLUE)))
    loads = []

    def load(folder):
        loads.append(folder)
        time.sleep(0.05)
        return rule

    monkeypatch.setattr(model_module, "load_bundle", load)
    job = plan_job(str(source), str(dest), model=model(), chunk_images=1)
    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(lambda index: segment_chunk(job, index), range(job.chunks)))
    assert sum(each.ok for each in counts) == 8
    assert loads == [Path(color_rule.FOLDER)]


def test_an_object_that_changed_after_the_listing_is_read_as_it_is_now(folders, rule):
    source, dest = folders
    put(source, "x.png", encode(plain(RED)))
    job = plan_job(str(source), str(dest), model=model())
    put(source, "x.png", encode(plain(GREEN, 5, 4)))
    assert segment_chunk(job, 0).ok == 1
    now = LocalStore(source).stat("x.png")
    row = rows(job)[0]
    assert (row["etag"], row["bytes"], row["width"]) == (now.etag, now.size, 5)
    assert read_mask_metadata((dest / "x.png.png").read_bytes())["source-etag"] == now.etag
    assert (read_ids(dest / "x.png.png") == 1).all()
    commit_job(job, 1.0)
    assert run(source, dest)[1].skipped == 1  # the mask is of what is there


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


def test_masks_that_cannot_be_there_are_not_asked_for(folders, rule, monkeypatch):
    source, dest = folders
    for number in range(4):
        put(source, f"{number}.png", encode(plain(RED)))
    put(dest, "1.png.png", b"something lay here before the job")
    asked = []
    find = objects.find_mask
    monkeypatch.setattr(
        objects, "find_mask", lambda store, info, *rest: (asked.append(info.key), find(store, info, *rest))[1]
    )
    job = plan_job(str(source), str(dest), model=model())
    assert segment_chunk(job, 0).written == 4
    assert asked == ["1.png"]
    # Killed before its rows were written: now any of them may be there, and all are.
    Path(job.dest, job.part_key(0)).unlink()
    LocalStore(dest).write(job.begun_key(0), b"")
    asked.clear()
    again = segment_chunk(job, 0)
    assert (again.ok, again.written) == (4, 0)
    assert sorted(asked) == ["0.png", "1.png", "2.png", "3.png"]
    assert not Path(job.dest, job.begun_key(0)).exists()  # nothing is left behind


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


def test_flips_are_part_of_what_a_mask_remembers(folders, rule):
    source, dest = folders
    put(source, "x.png", encode(halves()))
    run(source, dest)
    assert run(source, dest, flip=True)[1].ok == 1
    assert read_mask_metadata((dest / "x.png.png").read_bytes())["options"].endswith(" flip=true")
    assert run(source, dest, flip=True)[1].skipped == 1


def test_an_image_that_is_broken_behind_its_header_is_a_row_with_tiles_too(folders, rule):
    source, dest = folders
    put(source, "a.png", encode(halves()))
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    put(source, "cut.png", encode(noise)[:-600])
    put(source, "z.png", encode(halves()))
    job, summary = run(source, dest, tile=True)
    assert (summary.ok, summary.failed) == (2, 1)
    assert "broken" in rows(job)[1]["error"]


def test_the_summary_says_where_the_time_went(folders, rule):
    source, dest = folders
    put(source, "x.png", encode(halves(300, 200)))
    _, summary = run(source, dest)
    busy = {name for name, seconds in summary.stage_seconds.items() if seconds > 0}
    assert busy >= {"fetch", "decode", "forward", "encode"}
    assert summary.stage_seconds["check"] == 0  # nothing lay there
    before = summary.stage_seconds["forward"]
    assert before > 0
    assert run(source, dest)[1].stage_seconds["check"] > 0


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


def test_names_that_a_folder_cannot_hold_together_are_rows(folders, rule, monkeypatch):
    source, dest = folders
    put(source, "a.png", encode(plain(RED)))
    put(source, "a.png.png/b.png", encode(plain(RED)))  # the mask of the first has the name of this folder
    job, summary = run(source, dest)
    assert (summary.ok, summary.failed) == (1, 1)
    assert {row["status"] for row in rows(job)} == {"ok", "failed"}


def test_a_source_that_does_not_answer_any_more_is_not_many_failed_objects(folders, rule, monkeypatch):
    source, dest = folders
    for number in range(5):
        put(source, f"{number}.png", encode(plain(BLUE)))
    job = plan_job(str(source), str(dest), model=model())

    def down(self, *arguments):
        raise StorageError("no S3 server answers")

    monkeypatch.setattr(LocalStore, "read_tagged", down)
    monkeypatch.setattr(LocalStore, "list", down)
    monkeypatch.setattr(LocalStore, "read", lambda self, key: Path(self.folder, key).read_bytes())
    monkeypatch.setattr(chunk, "_part_before", lambda *_: None)
    with pytest.raises(StorageError, match="no S3 server"):
        segment_chunk(job, 0)


def test_what_is_no_image_is_not_fetched_to_find_that_out(folders, rule, monkeypatch):
    source, dest = folders
    put(source, "a", encode(plain(RED)))
    put(source, "b.json", b"x" * 100_000)
    read, fetched = LocalStore.read_tagged, []
    monkeypatch.setattr(LocalStore, "read_tagged", lambda self, key: (fetched.append(key), read(self, key))[1])
    _, summary = run(source, dest)
    assert (summary.ok, summary.skipped) == (1, 1)
    assert "a" in fetched
    assert "b.json" not in fetched


def test_reading_runs_no_further_ahead_than_it_may(folders, rule, monkeypatch):
    source, dest = folders
    for number in range(60):
        put(source, f"{number:02}.png", encode(plain(BLUE)))
    count, most = 0, 0
    read, ask = chunk.read_object, answer.ask
    lock = threading.Lock()

    def reading(*arguments):
        nonlocal count, most
        with lock:
            count += 1
            most = max(most, count)
        return read(*arguments)

    def asking(setting, images, moments=None):
        nonlocal count
        time.sleep(0.01)
        with lock:
            count -= len(images)
        return ask(setting, images, moments)

    monkeypatch.setattr(chunk, "read_object", reading)
    monkeypatch.setattr(answer, "ask", asking)
    assert run(source, dest, batch_size=2, chunk_images=60)[1].ok == 60
    assert most <= 2 * chunk._READERS + 2 + 1
    monkeypatch.setattr(chunk, "_BYTES_AHEAD", 1)  # each object alone is more than may wait
    count = most = 0
    assert run(source, dest, batch_size=2, chunk_images=60, ids="label")[1].ok == 60
    assert most <= 2


NAME = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=30)
KEYS = st.lists(st.lists(NAME, min_size=1, max_size=4), min_size=1, max_size=5)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(KEYS)
def test_any_name_gets_its_own_mask(tmp_path_factory, rule, paths):
    root = tmp_path_factory.mktemp("names")
    keys = {"/".join([f"d{index}", *parts]) for index, parts in enumerate(paths)}
    keys = {key for key in keys if not {".", ".."} & set(key.split("/")) and "_vitseg" not in key}
    keys |= {"same.jpg", "same.png", "same.jpg.png", "same", "with space .jpg", "100%25.jpg", "a.b.c/d.e"}
    colors = dict(zip(sorted(keys), [RED, GREEN, BLUE] * len(keys), strict=False))
    for key, color in colors.items():
        put(root / "photos", key, encode(plain(color, 4, 3)))
    job, summary = run(root / "photos", root / "masks")
    assert sorted(row["key"] for row in rows(job)) == sorted(keys)
    assert summary.ok == len(keys)
    for key, color in colors.items():
        assert (read_ids(root / "masks" / f"{key}.png") == np.argmax(color)).all()
    made = [path.relative_to(root / "masks") for path in (root / "masks").rglob("*") if path.is_file()]
    assert len([path for path in made if path.parts[0] != "_vitseg"]) == len(keys)


def test_killed_at_20_moments_the_job_ends_as_if_undisturbed(folders, rule):
    source, dest = folders
    chance = random.Random(5)
    for number in range(60):
        color = chance.choice([RED, GREEN, BLUE])
        put(source, f"{number:02}.png", encode(plain(color, chance.randint(1, 40), chance.randint(1, 40))))
    put(source, "55.jpg", b"broken")
    put(source, "56.txt", b"text")
    # A fork server that has everything imported: a process in milliseconds, and no threads of ours in it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vitseg.inference.plan", "vitseg.inference.chunk"])
    for masks in sorted(chance.sample(range(56), 20)):
        process = context.Process(target=color_rule.segment_slowly, args=(str(source), str(dest)))
        process.start()
        while len(list(dest.glob("*.png"))) < masks and process.is_alive():
            time.sleep(0.002)
        time.sleep(chance.random() * 0.02)
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
