"""The report page: complete, escaped, and without anything that a browser would load."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.display.report_page import (
    ClassScore,
    Picture,
    PictureRow,
    Report,
    write_report,
)
from vitseg.errors import StorageError
from vitseg.labels import Label

HOSTILE = """<script>alert(1)</script>"'><img src=x onerror=alert(2)>"""
VOID = {"meta", "img", "wbr", "br", "link", "!doctype"}


class Page(HTMLParser):
    """All start tags with their attributes, the visible text, and whether tags are balanced."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(path.read_text("utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data

    def images(self) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.tags if tag == "img"]


def picture(title: str, size: tuple[int, int] = (24, 16), **options: bool) -> Picture:
    noise = np.random.default_rng(len(title)).integers(0, 255, (size[1], size[0], 3), np.uint8)
    return Picture(title, Image.fromarray(noise), **options)


def row(text: str, *titles: str) -> PictureRow:
    return PictureRow(f"key {text}", tuple(picture(title) for title in titles))


def sample(text: str = "road") -> Report:
    """Return a report with `text` wherever a text comes from outside."""
    ratios = {"16": {"rows": 1.5, "columns": None}, "4": {"rows": 1.25, "columns": 1.1}}
    labels = {"16": {"rows": 1.01, "columns": 0.99}, "4": {"rows": 1.0, "columns": 1.0}}
    return Report(
        created=f"today {text}",
        addresses=dict.fromkeys(("scenes", "shards", "photographs", "masks", "copies", "home"), f"s3://demo/{text}"),
        seconds={"scenes": 96.4, "preprocess": 0.42, "train": 3.0, "evaluate": 1.0, "segment": 2.0},
        results={
            "preprocess": {"samples": 22, "shards": 3},
            "train": {"epochs": 5, "model_uri": f"models:/{text}/1", "run_id": text},
            "evaluate": {
                "miou": 0.612, "pixel_accuracy": 0.75, "samples": 6, "seam_ratio": ratios, "seam_ratio_truth": labels
            },
            "segment": {"listed": 25, "images_per_second": 41.0, "job": text},
        },
        masks=24,
        parameters=1_560_000,
        charts=(picture("curves", (60, 20)), picture("confusion", (30, 30))),
        classes=(
            ClassScore(Label(text, (128, 64, 128), 7, 0), 0.8125, 0.6),
            ClassScore(Label("sky", (70, 130, 180), 23, 1), 0.0, 0.0),
        ),
        validation=tuple(row(text, "photo", "ground truth", "prediction") for _ in range(2)),
        segmented=(row(text, "photo", "mask", "overlay"), row(text, text)),
        environment={"Python": text, text: "2 cores"},
        recipe=f"[model]\n# {text}",
    )  # fmt: skip


def test_the_page_shows_steps_quality_and_results(tmp_path: Path) -> None:
    text = " ".join(Page(write_report(tmp_path, sample())).text.split())
    for expected in (
        "22 generated street scenes became 3 shards",
        "0.612",
        "41.0 images/s",
        "1 min 36 s",
        "0.4 s",
        "5 steps, 1 min 43 s",
        "60.0 %",
        "0.812",
        "s3://demo/road",
        "models:/road/1",
        "2 cores",
        "[model]",
    ):
        assert expected in text


def test_the_largest_seam_ratio_is_a_key_figure_with_all_others_below(tmp_path: Path) -> None:
    text = Page(write_report(tmp_path, sample())).text
    assert (
        "Seam ratio1.5016-pixel patches: rows 1.50, columns – (labels 1.01, 0.99); 4-pixel patches: rows 1.25" in text
    )


def test_a_demo_that_found_all_masks_done_has_no_speed(tmp_path: Path) -> None:
    results = sample().results
    done = {**results, "segment": {**results["segment"], "images_per_second": 0.0}}
    text = Page(write_report(tmp_path, replace(sample(), results=done))).text
    assert "images/s" not in text


def test_the_page_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    path = write_report(tmp_path, sample())
    page = Page(path)
    assert page.images()
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "form"}
        assert not [name for name in attributes if name.startswith("on") or name in {"srcset", "href"}]
        assert attributes.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
    style = path.read_text("utf-8")
    assert "url(" not in style
    assert "@import" not in style
    policy = [a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy[0].startswith("default-src 'none'")


def test_every_text_is_escaped(tmp_path: Path) -> None:
    plain, hostile = (
        Page(write_report(tmp_path / "a", sample())),
        Page(write_report(tmp_path / "b", sample(HOSTILE))),
    )
    assert [tag for tag, _ in hostile.tags if tag != "wbr"] == [tag for tag, _ in plain.tags if tag != "wbr"]
    assert HOSTILE in hostile.text
    assert not hostile.open


def test_pictures_lie_beside_the_page_and_are_the_same(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path, sample()))
    files = sorted((tmp_path / "pictures").iterdir())
    assert [file.name for file in files] == [
        "chart-01-curves.png",
        "chart-02-confusion.png",
        "segmented-01-01-photo.png",
        "segmented-01-02-mask.png",
        "segmented-01-03-overlay.png",
        "segmented-02-01-road.png",
        "validation-01-01-photo.png",
        "validation-01-02-ground-truth.png",
        "validation-01-03-prediction.png",
        "validation-02-01-photo.png",
        "validation-02-02-ground-truth.png",
        "validation-02-03-prediction.png",
    ]
    embedded = {base64.b64decode(image["src"].partition(",")[2]) for image in page.images()}
    assert embedded == {file.read_bytes() for file in files}
    assert len(page.images()) == len(files)
    for image in page.images():
        size = Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))).size
        assert size == (int(image["width"]), int(image["height"]))


def test_odd_titles_give_safe_file_names(tmp_path: Path) -> None:
    titles = (HOSTILE, "../../etc/passwd", "", "Straße", "a" * 500)
    odd = PictureRow("s", tuple(picture(title) for title in titles))
    write_report(tmp_path, replace(sample(), segmented=(odd,), validation=(), charts=()))
    names = [file.name for file in (tmp_path / "pictures").iterdir()]
    assert len(names) == len(titles)
    assert all(re.fullmatch(r"segmented-01-0\d(-[a-z0-9-]+)?\.png", name) and len(name) < 80 for name in names)


def test_every_picture_has_an_alternative_text(tmp_path: Path) -> None:
    untitled = Picture("", Image.new("RGB", (8, 8)))
    alts = [image["alt"] for image in Page(write_report(tmp_path, replace(sample(), charts=(untitled,)))).images()]
    assert {"photo", "ground truth", "mask"} < set(alts)
    assert all(alts)


def test_masks_keep_hard_edges(tmp_path: Path) -> None:
    odd = PictureRow("s", (picture("photo"), picture("mask", pixelated=True)))
    page = Page(write_report(tmp_path, replace(sample(), segmented=(odd,), validation=(), charts=())))
    assert [image.get("class") for image in page.images()] == [None, "pixelated"]


def test_equal_reports_give_equal_bytes_and_leave_nothing_of_a_longer_one(tmp_path: Path) -> None:
    first = write_report(tmp_path, sample()).read_bytes()
    assert write_report(tmp_path, sample()).read_bytes() == first
    (tmp_path / "pictures" / "mine.png").write_bytes(b"kept")
    write_report(tmp_path, replace(sample(), validation=(), segmented=()))
    left = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["chart-01-curves.png", "chart-02-confusion.png", "mine.png", "report.html"]


def test_a_folder_in_the_way_of_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="can't write"):
        write_report(tmp_path / "file", sample())
