"""The page that a reviewer decides by: what is on it, in which order, and that it fits."""

import dataclasses

import pytest
import torch

from vitseg.registry.comparison import Difference, Result
from vitseg.registry.gate import Ruling
from vitseg.registry.provenance import Record, SplitRecord
from vitseg.registry.review_page import Assessment, for_other_pages, review_page
from vitseg.registry.training_summary import MAX_PAGE
from vitseg.registry.versions import Version

MATRIX = torch.tensor([[6, 2, 0, 0], [2, 10, 0, 0], [0, 0, 0, 0], [0, 0, 1, 3]])
FLOOR = Ruling("mIoU", "≥ 0.3", "0.516", passed=True)
FOUND = Result(("road", "sidewalk", "building", "wall"), 6, MATRIX[None], 12.0, 9.5, worst_seam=0.5)


CANDIDATE = Version("streets", "4", "0" * 64, run_id="f00d", description="trained so")
CHAMPION = Version("streets", "3", "1" * 64, run_id="beef")
NAMES = FOUND.classes
RECORD = Record(
    shards="s3://b/shards", fingerprint="ab" * 32, image_size=(256, 512), classes=NAMES,
    splits={
        "train": SplitRecord(1200, "t2" * 8, (70, 20, 10, 0)),
        "val": SplitRecord(100, "ab12" * 4, (10, 10, 0, 0)),
    },
    skipped=2, recipe="tiny-1234", seed=7, init="", world_size=8, seconds=7384.0, attempts=2,
    flow_run="https://prefect.example/runs/flow-run/1", commit="c0ffee" * 6 + "beef+", device="NVIDIA H100",
    versions={"python": "3.11.7", "torch": "2.13.0"},
)  # fmt: skip
BEFORE = dataclasses.replace(
    RECORD,
    fingerprint="cd" * 32,
    splits={**RECORD.splits, "train": SplitRecord(1000, "t1" * 8, (80, 20, 0, 0))},
)
ROW = Difference(0.5, 0.516, 0.016, 0.004, 0.03)


def page_of(champion: Version | None, *rulings: Ruling, **more: object) -> str:
    rows = {"miou": ROW, "iou/wall": Difference(None, None, None, None, None)} if champion else {}
    beside = dataclasses.replace(FOUND, images_per_second=8.0) if champion else None
    of = Assessment(CANDIDATE, champion, rulings, rows, FOUND, beside, "val of s3://b/shards", "ab12" * 4)
    return review_page(dataclasses.replace(of, **more))


def test_a_reviewer_reads_verdict_comparison_pictures_and_commands_first() -> None:
    slow = Ruling("time an image takes", "≤ 2", "3.10", passed=False)
    page = page_of(CHAMPION, FLOOR, slow, picture="get-artifact?x", record=RECORD, before=BEFORE)
    order = [
        "# Gate FAILED", "6 images, val of s3://b/shards", "ab12" * 4, "models:/streets/3",
        "| mIoU&ensp; | ≥ 0.3&ensp; | 0.516&ensp; | passed&ensp; |",
        "**failed**", "Beside the champion", "| mIoU&ensp; | 0.500&ensp; | 0.516&ensp; | **+0.016**&ensp; | +0.004 to +0.030",
        "| seam ratio, worst&ensp; | 0.50&ensp; | 0.50&ensp; |", "| images/s&ensp; | 8.00&ensp; | 9.50&ensp; | +1.50",
        "](get-artifact?x)", "vitseg registry promote 4 --name streets --reviewer YOU --reason WHY",
        "vitseg registry reject 4", "vitseg registry rollback",
        "# Data", "# Making", "# Known limits", "# As trained", "trained so",
    ]  # fmt: skip
    places = [page.index(text) for text in order]
    assert places == sorted(places)
    assert "wall" not in page.partition("# Data")[0]  # it is nowhere


def test_the_data_is_set_beside_the_champions() -> None:
    page = page_of(CHAMPION, FLOOR, record=RECORD, before=BEFORE).partition("# Data")[2].partition("# Making")[0]
    assert f"Fingerprint `{'ab' * 8}`." in page
    assert f"| train&ensp; | 1,200&ensp; | 1,000&ensp; | `{'t2' * 8}`&ensp; | new&ensp; |" in page
    assert f"| val&ensp; | 100&ensp; | 100&ensp; | `{'ab12' * 4}`&ensp; | the same&ensp; |" in page
    assert "road 70.0% (-10.0), sidewalk 20.0%, building 10.0% (+10.0), wall 0.0%." in page
    same = page_of(CHAMPION, FLOOR, record=RECORD, before=RECORD)
    assert "the champion's too" in same
    assert "points more" not in same
    first = page_of(None, FLOOR, record=RECORD)
    assert f"| train&ensp; | 1,200&ensp; | –&ensp; | `{'t2' * 8}`&ensp; |  |" in first
    gone = dataclasses.replace(RECORD, splits={**RECORD.splits, "test": SplitRecord(5, "x" * 16, (1, 1, 1, 1))})
    assert "| test&ensp; | –&ensp; | 5&ensp;" in page_of(CHAMPION, FLOOR, record=RECORD, before=gone)


def test_how_it_was_made_is_told_in_full() -> None:
    page = page_of(CHAMPION, FLOOR, record=RECORD).partition("# Making")[2]
    for text in (
        "Recipe `tiny-1234`, seed 7, from chance, 8 ranks on NVIDIA H100, 2 h 3 min, started 2 times",
        "[flow run](https://prefect.example/runs/flow-run/1), run `f00d`",
        "Code `c0ffeec0ffee+`, python 3.11.7, torch 2.13.0. Weights `0000000000000000`.",
    ):
        assert text in page
    again = dataclasses.replace(
        RECORD, init="models:/streets/3", world_size=1, seconds=71, attempts=1, flow_run="old owl"
    )
    page = page_of(CHAMPION, FLOOR, record=dataclasses.replace(again, commit="")).partition("# Making")[2]
    assert "from `models:/streets/3`, 1 rank on NVIDIA H100, 1 min 11 s; flow run old owl" in page
    assert "Code of no known commit" in page


def test_what_the_numbers_do_not_tell_is_said() -> None:
    wide = {"miou": dataclasses.replace(ROW, low=-0.03, high=0.05)}
    many = dataclasses.replace(FOUND, samples=60)
    page = page_of(CHAMPION, FLOOR, record=RECORD, before=BEFORE, rows=wide, found=many).partition("# Known limits")[2]
    assert "- not in the holdout, so not measured: building" in page
    assert "- in few images of the holdout, so hardly measured: road (1), sidewalk (1), wall (1)" in page
    assert "60 images tell mIoU only to ±0.040" in page
    assert "trained at 512×256" in page
    assert "2 sources could not be used" in page
    assert "may have been trained on some" not in page  # its own holdout was the same
    assert "hardly measured: all classes" in page_of(CHAMPION, FLOOR)
    other = page_of(CHAMPION, FLOOR, record=RECORD, before=BEFORE, holdout="f" * 16)
    for who in ("the champion", "this version"):
        assert f"{who} was not held out from these very images" in other


def test_the_first_version_has_nothing_beside_it_and_a_new_review_replaces_the_last() -> None:
    first = page_of(None, FLOOR, record=RECORD)
    assert first.startswith("# Gate passed")
    assert "no champion yet" in first
    assert "rollback" not in first
    again = page_of(CHAMPION, FLOOR, record=RECORD, candidate=dataclasses.replace(CANDIDATE, description=first))
    for title in ("# Gate", "# Data", "# Making", "# As trained"):
        assert again.count(title) == 1
    assert again.endswith("trained so")


def test_a_decision_for_another_model_names_it() -> None:
    page = page_of(dataclasses.replace(CHAMPION, name="approved-streets"), FLOOR, approved="approved-streets")
    assert "promote 4 --name streets --to approved-streets --reviewer" in page
    assert "rollback --name approved-streets --reviewer" in page


@pytest.mark.parametrize("count", [19, 30, 60, 150])
def test_all_of_a_full_review_fits_and_what_does_not_is_cut_between_lines(count: int) -> None:
    names = tuple(f"class number {index}" for index in range(count))
    pixels = tuple(range(1000, 1000 + 97 * len(names), 97))
    splits = {name: SplitRecord(2975, "d" * 16, pixels) for name in ("train", "val")}
    older = {name: SplitRecord(2500, "e" * 16, pixels[::-1]) for name in ("train", "val")}
    chance = dataclasses.replace(ROW, low=-0.01)
    rows = {"miou": ROW, "pixel_accuracy": chance} | {f"iou/{name}": chance for name in names}
    rows[f"iou/{names[-1]}"] = dataclasses.replace(ROW, delta=-0.2, low=-0.3, high=-0.1)
    found = dataclasses.replace(FOUND, classes=names, images=torch.eye(len(names), dtype=torch.int64)[None])
    page = page_of(
        CHAMPION, *(FLOOR,) * 5, rows=rows, found=found, beside=found, picture="get-artifact?run_uuid=" + "f" * 60,
        record=dataclasses.replace(RECORD, classes=names, splits=splits),
        before=dataclasses.replace(RECORD, classes=names, splits=older),
        candidate=dataclasses.replace(CANDIDATE, description="0123456789\n" * MAX_PAGE), approved="approved-streets",
    )  # fmt: skip
    assert MAX_PAGE - 500 < len(page) <= MAX_PAGE
    assert page.endswith("0123456789")
    wanted = ("| mIoU", "| images/s", f"| {names[-1]}&ensp; |", "rollback", "# Data", "# Making", "# Known limits")
    for part in wanted:
        assert part in page
    assert page.partition("# As trained")[2].count("0123456789") > 20
    again = page_of(CHAMPION, FLOOR, candidate=dataclasses.replace(CANDIDATE, description=page))
    assert again.endswith("0123456789")
    assert again.count("# Gate") == 1


def test_other_pages_get_a_link_instead_of_pictures_that_only_mlflow_has() -> None:
    page = page_of(CHAMPION, FLOOR, picture="get-artifact?x", record=RECORD)
    other = for_other_pages(page, "models:/streets/4", "https://mlflow.example/")
    assert other.startswith(
        "[models:/streets/4 in MLflow, with pictures]"
        "(https://mlflow.example/?workflowType=machine_learning#/models/streets/versions/4)\n\n# Gate passed"
    )
    for text in ("&ensp;", "get-artifact", "images worth a look", "As trained"):
        assert text not in other
    assert "| mIoU | ≥ 0.3 | 0.516 | passed |" in other
    assert "vitseg registry promote 4" in other
    assert for_other_pages(page, "models:/streets/4", "sqlite:///x").startswith("# Gate passed")
