from pathlib import Path

import numpy as np
from PIL import Image

from .conftest import BLUE, GREEN, RED, encode, plain, put, rows, run


def doubt(share: float) -> Image.Image:
    """Return a picture that the rule is the less sure of the grayer it is."""
    gray = 128
    return plain((int(gray + (250 - gray) * share), gray, gray), 64, 48)


def test_the_least_sure_images_come_first(folders, rule):
    source, dest = folders
    for number in range(20):
        put(source, f"{number:02}.png", encode(doubt(number / 20)))
    job, summary = run(source, dest)
    sheet = Image.open(summary.least_confident)
    assert Path(summary.least_confident).parent == Path(summary.summary).parent
    sure = [row["mean_confidence"] for row in rows(job)]
    assert sure == sorted(sure)  # so the first image is the least sure, and four are left out
    cells = np.asarray(sheet)
    assert sheet.width > 4 * 320
    first, last = cells[100, 170].astype(int), cells[-150, -170].astype(int)
    assert np.abs(first - (164, 64, 64)).max() < 8  # half of gray and half of the color
    assert last[0] > first[0] + 20


def test_pictures_are_the_photo_under_its_mask_whatever_their_shape(folders, rule):
    source, dest = folders
    put(source, "tall.png", encode(plain(GREEN, 30, 900)))
    put(source, "wide.png", encode(plain(BLUE, 900, 30)))
    put(source, "tiny.png", encode(plain(RED, 1, 1)))
    _, summary = run(source, dest, ids="label")
    sheet = np.asarray(Image.open(summary.least_confident)).reshape(-1, 3).astype(int)
    for photo, color in ((GREEN, (0, 200, 0)), (BLUE, (0, 0, 200)), (RED, (200, 0, 0))):
        mixed = (np.array(photo) + color) // 2
        assert (np.abs(sheet - mixed).max(1) < 30).sum() >= 1


def test_what_vanished_or_changed_is_left_out_and_without_pictures_there_is_no_sheet(folders, rule, monkeypatch):
    source, dest = folders
    put(source, "x.txt", b"no picture")
    assert run(source, dest)[1].least_confident is None
    put(source, "x.png", encode(plain(RED)))
    from vitseg.inference.chunk import segment_chunk
    from vitseg.inference.commit import commit_job
    from vitseg.inference.plan import plan_job

    from .color_rule import model

    job = plan_job(str(source), str(dest), model=model())
    segment_chunk(job, 0)
    put(source, "x.png", encode(plain(BLUE)))  # another photograph of the same size
    assert commit_job(job, 1.0).least_confident is None
    (source / "x.png").unlink()
    assert commit_job(job, 1.0).least_confident is None


def test_a_re_run_shows_what_was_made_before(folders, rule):
    source, dest = folders
    put(source, "x.png", encode(plain(RED)))
    run(source, dest)
    _, summary = run(source, dest)
    assert summary.skipped == 1
    assert summary.least_confident is not None


def test_a_very_thin_photograph_is_shown_too(folders, rule):
    source, dest = folders
    put(source, "thin.png", encode(plain(RED, 1, 500)))
    put(source, "flat.png", encode(plain(RED, 3000, 2)))
    _, summary = run(source, dest)
    sheet = np.asarray(Image.open(summary.least_confident)).astype(int)
    red = sheet[..., 0] - sheet[..., 1] > 60
    assert red[:, :330].any()
    assert red[:, 340:].any()  # the second cell has a picture, too
