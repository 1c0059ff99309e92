import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitseg.errors import AccessError, StorageError
from vitseg.images import formats
from vitseg.inference import chunk
from vitseg.inference.chunk import segment_chunk
from vitseg.inference.commit import commit_job
from vitseg.inference.plan import plan_job
from vitseg.masks import read_mask_metadata
from vitseg.storage import LocalStore

from .color_rule import model
from .conftest import BLUE, GREEN, RED, encode, halves, plain, put, read_ids, rows, run

OTHER = "b" * 64


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


def test_what_macos_knows_of_a_photograph_is_skipped(folders, rule):
    source, dest = folders
    put(source, "x.jpg", encode(halves(), "JPEG"))
    put(source, "a/._x.jpg", b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(99))
    put(source, "Thumbs.db", b"\xd0\xcf\x11\xe0" + bytes(99))
    job, summary = run(source, dest)
    assert (summary.ok, summary.skipped, summary.failed) == (1, 2, 0)
    assert {row["key"]: row["error"] for row in rows(job)}["a/._x.jpg"] == "not an image: what macOS knows of x.jpg"


def test_what_begins_as_an_image_is_read_or_failed_whatever_its_name(folders, rule):
    source, dest = folders
    good, text = encode(halves()), b"zTXt" + b"Comment\0\0" + zlib.compress(bytes(3 << 20))
    odd = good[:33] + struct.pack(">I", len(text) - 4) + text + zlib.crc32(text).to_bytes(4) + good[33:]
    put(source, "odd", odd)
    put(source, "odd.png", odd)
    put(source, "cut", good[:60])
    put(source, "cut.data", encode(halves(), "JPEG")[:-40])
    put(source, "dark", encode((np.arange(64).reshape(8, 8) * 65).astype(np.uint16)))
    put(source, "favicon.ico", encode(plain(RED, 32, 32).convert("RGBA"), "ICO"))
    put(source, "icon", encode(plain(RED, 32, 32).convert("RGBA"), "ICO"))
    put(source, "bmw", b"BMW makes cars")
    job, summary = run(source, dest)
    table = {row["key"]: (row["status"], row["error"]) for row in rows(job)}
    assert (summary.ok, summary.skipped, summary.failed) == (2, 1, 5)
    assert table["odd"] == table["odd.png"] == ("ok", None)
    assert table["bmw"] == ("skipped", "not an image")
    reasons = {
        "cut": "cut off",
        "cut.data": "Premature end",
        "dark": "end at 4095",
        "favicon.ico": "ICO",
        "icon": "ICO",
    }
    for key, reason in reasons.items():
        assert table[key][0] == "failed"
        assert reason in table[key][1]


def test_a_large_object_is_read_only_where_it_begins_as_an_image(folders, rule, monkeypatch):
    monkeypatch.setattr(formats, "_LARGEST_UNCERTAIN", 100)
    source, dest = folders
    put(source, "photo", encode(halves()))
    put(source, "letters", b"P5" + b" " * 200)
    put(source, "text", b"text" * 99)
    put(source, "too large", encode(np.zeros((1, 1, 3), np.uint8)) + bytes(9000))
    job, _ = run(source, dest, max_pixels=1000)
    table = {row["key"]: (row["status"], row["error"]) for row in rows(job)}
    assert table["photo"] == ("ok", None)
    assert table["letters"] == table["text"] == ("skipped", "not an image")
    assert table["too large"][0] == "failed"
    assert "too large" in table["too large"][1]


def test_an_object_that_vanished_is_a_row(folders, rule):
    source, dest = folders
    put(source, "x.png", encode(plain(BLUE)))
    put(source, "y.png", encode(plain(BLUE)))
    job = plan_job(str(source), str(dest), model=model())
    (source / "x.png").unlink()
    counts = segment_chunk(job, 0)
    assert (counts.ok, counts.failed) == (1, 1)
    assert "not there any more" in rows(job)[0]["error"]


def refuse(monkeypatch, error):
    read = LocalStore.read_tagged

    def broken(self, key):
        if key == "b.png":
            raise error("no luck")
        return read(self, key)

    monkeypatch.setattr(LocalStore, "read_tagged", broken)


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


def test_a_source_that_does_not_answer_any_more_is_not_many_failed_objects(folders, rule, monkeypatch):
    source, dest = folders
    for number in range(5):
        put(source, f"{number}.png", encode(plain(BLUE)))
    job = plan_job(str(source), str(dest), model=model())

    def down(self, *arguments):
        raise StorageError("no S3 server responds")

    read = LocalStore.read_tagged
    monkeypatch.setattr(LocalStore, "read_tagged", down)
    monkeypatch.setattr(LocalStore, "list", down)
    monkeypatch.setattr(LocalStore, "read", lambda self, key: read(self, key)[0])  # the destination still answers
    monkeypatch.setattr(chunk, "read_part", lambda *_: None)
    with pytest.raises(StorageError, match="no S3 server"):
        segment_chunk(job, 0)


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
