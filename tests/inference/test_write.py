import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vitseg.masks import read_mask_metadata

from .conftest import BLUE, GREEN, RED, encode, halves, plain, put, read_ids, rows, run


def test_the_mask_holds_where_it_comes_from(folders, rule):
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


def test_a_mask_made_with_flips_is_not_one_made_without(folders, rule):
    source, dest = folders
    put(source, "x.png", encode(halves()))
    run(source, dest)
    assert run(source, dest, flip=True)[1].ok == 1
    assert read_mask_metadata((dest / "x.png.png").read_bytes())["options"].endswith(" flip=true")
    assert run(source, dest, flip=True)[1].skipped == 1


def test_names_that_a_folder_cannot_hold_together_are_rows(folders, rule, monkeypatch):
    source, dest = folders
    put(source, "a.png", encode(plain(RED)))
    put(source, "a.png.png/b.png", encode(plain(RED)))  # the mask of the first has the name of this folder
    job, summary = run(source, dest)
    assert (summary.ok, summary.failed) == (1, 1)
    assert {row["status"] for row in rows(job)} == {"ok", "failed"}


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
