"""The gate: rules from a file, applied to measurements."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from tests.registry.conftest import evaluated
from tests.registry.test_comparison import CLASSES, images
from vitseg.errors import DataError, NotFoundError, UsageError
from vitseg.metrics.result import Evaluation
from vitseg.registry.comparison import differences
from vitseg.registry.gate import (
    AlwaysRules,
    ChampionRules,
    Gate,
    all_passed,
    apply_rules,
    read_gate,
    recorded_rules,
)
from vitseg.registry.versions import Version


def measured(matrices: torch.Tensor, speed: float = 10.0) -> Evaluation:
    return evaluated(matrices, CLASSES, images_per_second=speed)


def tagged(rules: str) -> Version:
    return Version("streets", "1", "", tags={"rules": rules})


def passed(gate: Gate, candidate: Evaluation, champion: Evaluation | None = None) -> dict[str, bool]:
    changes = {}
    if champion:
        changes = differences(champion.images, candidate.images, CLASSES)
    return {result.rule.split(" (")[0]: result.passed for result in apply_rules(gate, candidate, champion, changes)}


GOOD, BAD = measured(images(30, 0.8, 1, spread=0.02)), measured(images(30, 0.6, 2, spread=0.02))
CLOSE = measured(images(30, 0.8, 3, spread=0.02))


def test_the_first_model_meets_floors_alone() -> None:
    results = apply_rules(Gate(), BAD, None, {})
    assert [result.rule for result in results] == ["mIoU", "IoU of the worst class (pole)"]
    assert all_passed(results)
    assert passed(Gate(always=AlwaysRules(miou=0.9)), GOOD) == {"mIoU": False, "IoU of the worst class": True}
    assert passed(Gate(always=AlwaysRules(worst_class=0.9)), GOOD) == {"mIoU": True, "IoU of the worst class": False}


def test_a_class_that_is_never_found_is_the_worst_and_one_that_is_not_there_is_none() -> None:
    lost = images(10, 0.8, 1)
    lost[:, 2, 0] += lost[:, 2, 2]
    lost[:, 2, 2] = 0
    results = apply_rules(Gate(always=AlwaysRules(worst_class=0.01)), measured(lost), None, {})
    assert [(result.value, result.passed) for result in results][1] == ("0.000", False)
    absent = images(10, 0.8, 1)
    absent[:, 2] = 0
    assert passed(Gate(always=AlwaysRules(worst_class=0.01)), measured(absent))["IoU of the worst class"]


@pytest.mark.parametrize(
    ("candidate", "champion", "not_worse", "better"),
    [(GOOD, BAD, True, True), (CLOSE, GOOD, True, False), (GOOD, GOOD, True, False), (BAD, GOOD, False, False)],
    ids=["better", "as good", "itself", "worse"],
)
def test_a_difference_that_is_not_significant_decides_nothing(
    candidate: Evaluation, champion: Evaluation, not_worse: bool, better: bool
) -> None:
    for wanted, allowed in (("not worse", not_worse), ("better", better)):
        gate = Gate(champion=ChampionRules(miou=wanted))
        assert passed(gate, candidate, champion)["mIoU against the champion"] is allowed


def test_no_class_may_pay_for_the_others() -> None:
    champion, candidate = images(30, 0.6, 1, spread=0.01), images(30, 0.9, 2, spread=0.01)
    candidate[:, 2, 0] += candidate[:, 2, 2]
    candidate[:, 2, 2] = 0  # poles are gone
    found = passed(Gate(), measured(candidate), measured(champion))
    assert not found["IoU change of the worst class"]
    assert passed(Gate(champion=ChampionRules(class_drop=0.9)), measured(candidate), measured(champion))[
        "IoU change of the worst class"
    ]


def test_new_classes_are_held_to_the_floors_alone() -> None:
    champion, candidate = images(30, 0.8, 1, spread=0.02), images(30, 0.8, 2, spread=0.02)
    candidate[:, 2, 0] += candidate[:, 2, 2]
    candidate[:, 2, 2] = 0  # the third class, which only the candidate knows, is never found
    ours, theirs = measured(candidate), measured(champion).over(CLASSES[:2])
    changes = differences(theirs.images, ours.over(CLASSES[:2]).images, CLASSES[:2])
    assert list(changes) == ["miou", "pixel_accuracy", "iou/road", "iou/car"]
    results = apply_rules(Gate(), ours, theirs, changes)
    assert [result.rule for result in results][1:3] == [
        "IoU of the worst class (pole)",
        "mIoU against the champion (2 shared classes)",
    ]
    assert results[3].value.startswith(("road: ", "car: "))
    assert not all_passed(apply_rules(Gate(always=AlwaysRules(worst_class=0.1)), ours, theirs, changes))


def test_where_no_shared_class_is_in_the_holdout_nothing_is_worse() -> None:
    champion, candidate = images(10, 0.8, 1), images(10, 0.8, 2)
    for matrices in (champion, candidate):
        matrices[:, 1] = matrices[:, :, 1] = 0
    changes = differences(*(measured(side).over(CLASSES[1:2]).images for side in (champion, candidate)), CLASSES[1:2])
    assert changes["miou"].delta is None
    assert all_passed(apply_rules(Gate(), measured(candidate), measured(champion), changes))


def test_slower_than_allowed() -> None:
    slow = measured(GOOD.images, speed=4.0)
    rule = "time per image, relative to the champion"
    assert not passed(Gate(), slow, GOOD)[rule]
    assert passed(Gate(champion=ChampionRules(slower=3)), slow, GOOD)[rule]


def test_models_without_classes_pass_or_fail_by_their_psnr() -> None:
    def one(psnr: float) -> Evaluation:
        return evaluated(None, psnr=psnr)

    assert all_passed(apply_rules(Gate(always=AlwaysRules(psnr=19)), one(20), None, {}))
    assert not all_passed(apply_rules(Gate(always=AlwaysRules(psnr=21)), one(20), None, {}))
    assert all_passed(apply_rules(Gate(), one(19.8), one(20), {}))
    assert not all_passed(apply_rules(Gate(), one(17), one(20), {}))
    assert all_passed(apply_rules(Gate(), one(math.inf), one(math.inf), {}))  # of images that are equal


def test_what_is_no_number_never_passes() -> None:
    nothing = measured(torch.zeros(1, 3, 3, dtype=torch.int64))
    assert not all_passed(apply_rules(Gate(), nothing, None, {}))


def test_rules_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "gate.toml"
    file.write_text('[always]\nmiou = 0.3\n[champion]\nmiou = "better"\nslower = 3\n')
    assert read_gate(file) == Gate(always=AlwaysRules(miou=0.3), champion=ChampionRules(miou="better", slower=3.0))
    assert read_gate(None) == Gate()
    for text, words in [
        ("[always]\nmiuo = 0.3\n", "gate: unknown key always.miuo: did you mean always.miou?"),
        ('[always]\nmiou = "high"\n', "gate: always.miou = 'high': Input should be a valid number"),
        ('[champion]\nmiou = "best"\n', "gate: champion.miou = 'best': Input should be 'better' or 'not worse'"),
        ("[champion]\nslower = 0\n", "gate: champion.slower = 0: Input should be greater than 0"),
        ("always = 3\n", "gate: always is a section"),
        ("[always\n", "is not TOML"),
    ]:
        file.write_text(text)
        with pytest.raises(UsageError) as caught:
            read_gate(file)
        assert words in str(caught.value)
    with pytest.raises(NotFoundError, match=r"gate .*none\.toml"):
        read_gate(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[always]\nmiou = 30", r"always\.miou = 30: Input should be less than or equal to 1"),
        ("[always]\nworst_class = -1", "always.worst_class"),
        ("[champion]\nclass_drop = -3", "champion.class_drop"),
        ("[champion]\npsnr_drop = -1", "psnr_drop"),
    ],
)
def test_values_that_cannot_be_are_refused(tmp_path: Path, text: str, hint: str) -> None:
    (tmp_path / "gate.toml").write_text(text)
    with pytest.raises(UsageError, match=hint):
        read_gate(tmp_path / "gate.toml")


def test_rules_travel_as_a_tag(tmp_path: Path) -> None:
    (tmp_path / "gate.toml").write_text('[always]\nmiou = 0.5\n[champion]\nmiou = "better"')
    strict = read_gate(tmp_path / "gate.toml")
    assert recorded_rules(tagged(json.dumps(asdict(strict)))) == strict != Gate()
    assert recorded_rules(tagged("")) is None
    for damaged in ("{", '{"always": {"miou": 7}}', '{"never": {}}'):
        with pytest.raises(DataError, match="name a file"):
            recorded_rules(tagged(damaged))
