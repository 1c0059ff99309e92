"""Masks that still hold are kept: same content, same model, same options."""

from pathlib import Path

from vitseg.inference import read
from vitseg.inference.chunk import segment_chunk
from vitseg.inference.plan import plan_job
from vitseg.masks import read_mask_metadata
from vitseg.storage import LocalStore

from .color_rule import model
from .conftest import BLUE, GREEN, RED, encode, plain, put, read_ids, rows, run

OTHER = "b" * 64


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


def test_masks_that_cannot_be_there_are_not_asked_for(folders, rule, monkeypatch):
    source, dest = folders
    for number in range(4):
        put(source, f"{number}.png", encode(plain(RED)))
    put(dest, "1.png.png", b"something lay here before the job")
    asked = []
    find = read.find_reusable_mask
    monkeypatch.setattr(
        read, "find_reusable_mask", lambda store, info, *rest: (asked.append(info.key), find(store, info, *rest))[1]
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
