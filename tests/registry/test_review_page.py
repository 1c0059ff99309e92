"""The page that a reviewer decides by: what is on it, in which order, and that it fits."""

import dataclasses

import pytest
import torch

from tests.registry.conftest import evaluated
from vitseg.class_change import ClassChange
from vitseg.origin import Origin
from vitseg.registry.comparison import Difference
from vitseg.registry.gate import RuleResult
from vitseg.registry.provenance import Provenance, SplitProvenance
from vitseg.registry.review_page import Assessment, review_page, review_without_pictures
from vitseg.registry.training_summary import MAX_PAGE
from vitseg.registry.versions import Version

MATRIX = torch.tensor([[6, 2, 0, 0], [2, 10, 0, 0], [0, 0, 0, 0], [0, 0, 1, 3]])
FLOOR = RuleResult("mIoU", "≥ 0.3", "0.516", passed=True)
FOUND = evaluated(MATRIX[None], ("road", "sidewalk", "building", "wall"), samples=6, images_per_second=9.5, seam=0.5)


CANDIDATE = Version("streets", "4", "0" * 64, run_id="f00d", description="trained so")
CHAMPION = Version("streets", "3", "1" * 64, run_id="beef")
NAMES = FOUND.classes
RECORD = Provenance(
    shards="s3://b/shards", fingerprint="ab" * 32, image_size=(256, 512), classes=NAMES,
    splits={
        "train": SplitProvenance(1200, "t2" * 8, (70, 20, 10, 0)),
        "val": SplitProvenance(100, "ab12" * 4, (10, 10, 0, 0)),
    },
    skipped=2, recipe="tiny-1234", seed=7, init="", world_size=8, seconds=7384.0, attempts=2,
    flow_run="https://prefect.example/runs/flow-run/1", commit="c0ffee" * 6 + "beef+", device="NVIDIA H100",
    versions={"python": "3.11.7", "torch": "2.13.0"},
)  # fmt: skip
BEFORE = dataclasses.replace(
    RECORD,
    fingerprint="cd" * 32,
    splits={**RECORD.splits, "train": SplitProvenance(1000, "t1" * 8, (80, 20, 0, 0))},
)
ROW = Difference(0.5, 0.516, 0.016, 0.004, 0.03)


def page_of(champion: Version | None, *rules: RuleResult, **more: object) -> str:
    changes = {"miou": ROW, "iou/wall": Difference(None, None, None, None, None)} if champion else {}
    slower = dataclasses.replace(FOUND, images_per_second=8.0) if champion else None
    same = ClassChange(shared=NAMES) if champion else None
    page = Assessment(
        CANDIDATE, champion, rules, changes, FOUND, slower, "val of s3://b/shards", "ab12" * 4, class_change=same
    )
    return review_page(dataclasses.replace(page, **more))


def test_a_reviewer_reads_gate_comparison_examples_and_commands_first() -> None:
    slow = RuleResult("time an image takes", "≤ 2", "3.10", passed=False)
    page = page_of(CHAMPION, FLOOR, slow, picture="get-artifact?x", provenance=RECORD, champion_provenance=BEFORE)
    order = [
        "# Gate: FAILED", "6 images, val of s3://b/shards", "ab12" * 4, "models:/streets/3",
        "| mIoU&ensp; | ≥ 0.3&ensp; | 0.516&ensp; | passed&ensp; |",
        "**failed**", "# Comparison", "| mIoU&ensp; | 0.500&ensp; | 0.516&ensp; | **+0.016**&ensp; | +0.004 to +0.030",
        "| worst seam ratio&ensp; | 0.50&ensp; | 0.50&ensp; |", "| images/s&ensp; | 8.00&ensp; | 9.50&ensp; | +1.50",
        "# Examples", "](get-artifact?x)", "To decide:", "vitseg registry promote 4 --name streets --reviewer YOU --reason WHY",
        "vitseg registry reject 4", "vitseg registry rollback",
        "# Data", "# Provenance", "# Known limitations", "# Training summary", "trained so",
    ]  # fmt: skip
    places = [page.index(text) for text in order]
    assert places == sorted(places)
    assert "wall" not in page.partition("# Data")[0]  # it is nowhere


def test_the_data_is_compared_with_the_champions() -> None:
    page = (
        page_of(CHAMPION, FLOOR, provenance=RECORD, champion_provenance=BEFORE)
        .partition("# Data")[2]
        .partition("# Provenance")[0]
    )
    assert f"Fingerprint `{'ab' * 8}`." in page
    assert f"| train&ensp; | 1,200&ensp; | 1,000&ensp; | `{'t2' * 8}`&ensp; | changed&ensp; |" in page
    assert f"| val&ensp; | 100&ensp; | 100&ensp; | `{'ab12' * 4}`&ensp; | same&ensp; |" in page
    assert "road 70.0% (-10.0), sidewalk 20.0%, building 10.0% (+10.0)." in page
    same = page_of(CHAMPION, FLOOR, provenance=RECORD, champion_provenance=RECORD)
    assert "as the champion." in same
    assert "percentage points" not in same
    first = page_of(None, FLOOR, provenance=RECORD)
    assert f"| train&ensp; | 1,200&ensp; | –&ensp; | `{'t2' * 8}`&ensp; |  |" in first
    gone = dataclasses.replace(RECORD, splits={**RECORD.splits, "test": SplitProvenance(5, "x" * 16, (1, 1, 1, 1))})
    assert "| test&ensp; | –&ensp; | 5&ensp;" in page_of(CHAMPION, FLOOR, provenance=RECORD, champion_provenance=gone)


def test_what_is_doubtful_about_the_labels_is_told_beside_their_classes() -> None:
    doubted = dataclasses.replace(RECORD, warnings=tuple(f"no label has {n}" for n in range(6)))
    page = page_of(CHAMPION, FLOOR, provenance=doubted).partition("# Data")[2].partition("# Provenance")[0]
    assert "- **Warning of `preprocess`:** no label has 0\n" in page
    assert page.count("Warning") == 4
    assert "Warning" not in page_of(CHAMPION, FLOOR, provenance=RECORD)


def test_the_provenance_is_complete() -> None:
    page = page_of(CHAMPION, FLOOR, provenance=RECORD).partition("# Provenance")[2]
    for text in (
        "- Recipe `tiny-1234`, seed 7, from scratch",
        "- Trained by 8 ranks on NVIDIA H100 in 2 h 03 min, in 2 attempts: "
        "[flow run](https://prefect.example/runs/flow-run/1), MLflow run `f00d`",
        "- Code: commit `c0ffeec0ffee+`; python 3.11.7, torch 2.13.0",
        "- Model: sha256 `0000000000000000`",
    ):
        assert text in page
    again = dataclasses.replace(
        RECORD, init="models:/streets/3", world_size=1, seconds=71, attempts=1, flow_run="old owl"
    )
    page = page_of(CHAMPION, FLOOR, provenance=dataclasses.replace(again, commit="")).partition("# Provenance")[2]
    assert "from `models:/streets/3`\n- Trained by 1 rank on NVIDIA H100 in 1 min 11 s: flow run old owl" in page
    assert "commit unknown" in page


def test_published_weights_are_named_with_their_license() -> None:
    origin = Origin(
        address="hf:facebook/vit", family="DINOv3 ViT-S/16", commit="c" * 40, sha256="d" * 64, license="mit"
    )
    for license_, words in (
        ("mit", "license mit"),
        ("dinov3-license", "**license dinov3-license, not a permissive one: read its terms**"),
        ("", "**license unknown: look it up before you use the model**"),
    ):
        record = dataclasses.replace(RECORD, origin=dataclasses.replace(origin, license=license_))
        page = page_of(CHAMPION, FLOOR, provenance=record).partition("# Provenance")[2]
        line = f"- Pretrained: DINOv3 ViT-S/16, `hf:facebook/vit`, commit `{'c' * 12}`, sha256 `{'d' * 16}`; {words}\n"
        assert line in page
    assert "Pretrained" not in page_of(CHAMPION, FLOOR, provenance=RECORD)


def test_known_limitations_are_listed() -> None:
    wide = {"miou": dataclasses.replace(ROW, low=-0.03, high=0.05)}
    many = dataclasses.replace(FOUND, samples=60)
    page = page_of(
        CHAMPION, FLOOR, provenance=RECORD, champion_provenance=BEFORE, changes=wide, evaluation=many
    ).partition("# Known limitations")[2]
    assert "- Not in the holdout, so not measured: building." in page
    assert "- In few images of the holdout (number), so uncertain: road (1), sidewalk (1), wall (1)." in page
    assert "With 60 images, mIoU is uncertain by ±0.040" in page
    assert "Trained at 512×256" in page
    smaller = dataclasses.replace(RECORD, network_size=(252, 504))  # patches of 14 pixels don't fill 512×256
    assert "Trained at 504×252" in page_of(CHAMPION, FLOOR, provenance=smaller)
    assert "2 sources could not be used" in page
    assert "may have been trained on some" not in page  # its own holdout was the same
    assert "only 6 images: all values are uncertain" in page_of(CHAMPION, FLOOR)
    other = page_of(CHAMPION, FLOOR, provenance=RECORD, champion_provenance=BEFORE, holdout="f" * 16)
    for who in ("The champion", "This version"):
        assert f"{who} may have been trained on images of this holdout" in other


def test_the_first_version_has_nothing_beside_it_and_a_new_review_replaces_the_last() -> None:
    first = page_of(None, FLOOR, provenance=RECORD)
    assert first.startswith("# Gate: passed")
    assert "no champion yet" in first
    assert "rollback" not in first
    again = page_of(CHAMPION, FLOOR, provenance=RECORD, candidate=dataclasses.replace(CANDIDATE, description=first))
    for title in ("# Gate", "# Data", "# Provenance", "# Training summary"):
        assert again.count(title) == 1
    assert again.endswith("trained so")


def test_a_new_review_replaces_that_of_an_earlier_version_of_vitseg() -> None:
    old = "# Gate passed\nMeasured on 6 images.\n\n# Making\nRecipe.\n\n# As trained\n\ntrained so"
    page = page_of(None, FLOOR, candidate=dataclasses.replace(CANDIDATE, description=old))
    assert page.endswith("\n\n# Training summary\n\ntrained so")
    assert page.count("# Gate") == 1
    assert "# Making" not in page
    assert review_without_pictures(old, "models:/streets/4", "") == old.partition("\n\n# As trained")[0]


def test_another_list_of_classes_is_told_with_what_it_means() -> None:
    change = ClassChange(shared=("road", "wall"), added=("kerb",), removed=("bus", "tram"))
    rows = {"miou": ROW, "iou/road": ROW, "iou/wall": ROW}
    found = dataclasses.replace(FOUND.over(("road", "wall")), only_in_model=("kerb",), only_in_data=("pole",))
    page = page_of(
        CHAMPION, FLOOR, changes=rows, evaluation=found, class_change=change, image_sizes=((64, 128), (256, 512))
    )
    gate, _, rest = page.partition("# Comparison")
    for text in (
        "Unknown to this version, so not measured: pole.",
        "The classes changed: it is compared with the champion on the 2 that both know. IoU counts all labeled pixels",
        "New, so held to the floors alone: kerb.",
        "**Removed, so no mask will show them any more: bus, tram.**",
    ):
        assert text in gate
    assert "- Not in the holdout, so not measured: kerb." in rest
    assert "The champion sees images of 128×64, this version of 512×256: each was measured at its own size." in rest
    same = page_of(CHAMPION, FLOOR, class_change=ClassChange(shared=NAMES), image_sizes=((64, 128), (64, 128)))
    assert "classes changed" not in same
    assert "own size" not in same
    alone = page_of(CHAMPION, FLOOR, changes={}, champion_evaluation=None, class_change=None)
    assert "The champion was not compared, as they share no class of these images: only floors apply." in alone
    assert "# Comparison" not in alone


def test_a_promotion_to_another_model_names_it() -> None:
    page = page_of(dataclasses.replace(CHAMPION, name="approved-streets"), FLOOR, target="approved-streets")
    assert "promote 4 --name streets --to approved-streets --reviewer" in page
    assert "rollback --name approved-streets --reviewer" in page


@pytest.mark.parametrize("count", [19, 30, 60, 150])
def test_all_of_a_full_review_fits_and_what_does_not_is_cut_between_lines(count: int) -> None:
    names = tuple(f"class number {index}" for index in range(count))
    pixels = tuple(range(1000, 1000 + 97 * len(names), 97))
    splits = {name: SplitProvenance(2975, "d" * 16, pixels) for name in ("train", "val")}
    older = {name: SplitProvenance(2500, "e" * 16, pixels[::-1]) for name in ("train", "val")}
    insignificant = dataclasses.replace(ROW, low=-0.01)
    changes = {"miou": ROW, "pixel_accuracy": insignificant} | {f"iou/{name}": insignificant for name in names}
    changes[f"iou/{names[-1]}"] = dataclasses.replace(ROW, delta=-0.2, low=-0.3, high=-0.1)
    found = dataclasses.replace(FOUND, classes=names, images=torch.eye(len(names), dtype=torch.int64)[None])
    page = page_of(
        CHAMPION, *(FLOOR,) * 5, changes=changes, evaluation=found, champion_evaluation=found,
        picture="get-artifact?run_uuid=" + "f" * 60,
        provenance=dataclasses.replace(RECORD, classes=names, splits=splits),
        champion_provenance=dataclasses.replace(RECORD, classes=names, splits=older),
        candidate=dataclasses.replace(CANDIDATE, description="0123456789\n" * MAX_PAGE), target="approved-streets",
    )  # fmt: skip
    assert MAX_PAGE - 500 < len(page) <= MAX_PAGE
    assert page.endswith("0123456789")
    wanted = (
        "| mIoU",
        "| images/s",
        f"| {names[-1]}&ensp; |",
        "rollback",
        "# Data",
        "# Provenance",
        "# Known limitations",
    )
    for part in wanted:
        assert part in page
    assert page.partition("# Training summary")[2].count("0123456789") > 20
    again = page_of(CHAMPION, FLOOR, candidate=dataclasses.replace(CANDIDATE, description=page))
    assert again.endswith("0123456789")
    assert again.count("# Gate") == 1


def test_other_pages_get_a_link_instead_of_pictures_that_only_mlflow_has() -> None:
    page = page_of(CHAMPION, FLOOR, picture="get-artifact?x", provenance=RECORD)
    other = review_without_pictures(page, "models:/streets/4", "https://mlflow.example/")
    assert other.startswith(
        "[models:/streets/4 in MLflow, with pictures]"
        "(https://mlflow.example/?workflowType=machine_learning#/models/streets/versions/4)\n\n# Gate: passed"
    )
    for text in ("&ensp;", "get-artifact", "![", "Training summary"):
        assert text not in other
    assert "| mIoU | ≥ 0.3 | 0.516 | passed |" in other
    assert "vitseg registry promote 4" in other
    assert review_without_pictures(page, "models:/streets/4", "sqlite:///x").startswith("# Gate: passed")
