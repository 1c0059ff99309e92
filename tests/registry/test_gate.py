"""The gate: rules from a file, applied to what was measured."""

import math
from pathlib import Path

import pytest
import torch

from tests.registry.test_comparison import CLASSES, images
from vitseg.errors import DataError, NotFoundError, UsageError
from vitseg.registry.comparison import Result, differences
from vitseg.registry.gate import AlwaysRules, ChampionRules, Gate, judge, passed, read_gate, rules_from, rules_text


def measured(matrices: torch.Tensor, speed: float = 10.0) -> Result:
    return Result(CLASSES, len(matrices), matrices, 12.0, speed)


def verdict(gate: Gate, candidate: Result, champion: Result | None = None) -> dict[str, bool]:
    rows = differences(champion.images, candidate.images, CLASSES) if champion else {}
    return {ruling.rule.split(",")[0]: ruling.passed for ruling in judge(gate, candidate, champion, rows)}


GOOD, BAD = measured(images(30, 0.8, 1, spread=0.02)), measured(images(30, 0.6, 2, spread=0.02))
CLOSE = measured(images(30, 0.8, 3, spread=0.02))


def test_the_first_model_meets_floors_alone() -> None:
    rulings = judge(Gate(), BAD, None, {})
    assert [ruling.rule for ruling in rulings] == ["mIoU", "IoU of the worst class, pole"]
    assert passed(rulings)
    assert verdict(Gate(always=AlwaysRules(miou=0.9)), GOOD) == {"mIoU": False, "IoU of the worst class": True}
    assert verdict(Gate(always=AlwaysRules(worst_class=0.9)), GOOD) == {"mIoU": True, "IoU of the worst class": False}


def test_a_class_that_is_never_found_is_the_worst_and_one_that_is_not_there_is_none() -> None:
    lost = images(10, 0.8, 1)
    lost[:, 2, 0] += lost[:, 2, 2]
    lost[:, 2, 2] = 0
    rulings = judge(Gate(always=AlwaysRules(worst_class=0.01)), measured(lost), None, {})
    assert [(ruling.found, ruling.passed) for ruling in rulings][1] == ("0.000", False)
    absent = images(10, 0.8, 1)
    absent[:, 2] = 0
    assert verdict(Gate(always=AlwaysRules(worst_class=0.01)), measured(absent))["IoU of the worst class"]


@pytest.mark.parametrize(
    ("candidate", "champion", "not_worse", "better"),
    [(GOOD, BAD, True, True), (CLOSE, GOOD, True, False), (GOOD, GOOD, True, False), (BAD, GOOD, False, False)],
    ids=["better", "as good", "itself", "worse"],
)
def test_chance_decides_nothing(candidate: Result, champion: Result, not_worse: bool, better: bool) -> None:
    for wanted, allowed in (("not worse", not_worse), ("better", better)):
        gate = Gate(champion=ChampionRules(miou=wanted))
        assert verdict(gate, candidate, champion)["mIoU against the champion"] is allowed


def test_no_class_may_pay_for_the_others() -> None:
    champion, candidate = images(30, 0.6, 1, spread=0.01), images(30, 0.9, 2, spread=0.01)
    candidate[:, 2, 0] += candidate[:, 2, 2]
    candidate[:, 2, 2] = 0  # poles are gone
    found = verdict(Gate(), measured(candidate), measured(champion))
    assert not found["IoU lost by a class"]
    assert verdict(Gate(champion=ChampionRules(class_drop=0.9)), measured(candidate), measured(champion))[
        "IoU lost by a class"
    ]


def test_slower_than_allowed() -> None:
    slow = measured(GOOD.images, speed=4.0)
    assert not passed(judge(Gate(), slow, GOOD, differences(GOOD.images, slow.images, CLASSES)))
    assert passed(
        judge(Gate(champion=ChampionRules(slower=3)), slow, GOOD, differences(GOOD.images, slow.images, CLASSES))
    )


def test_models_without_classes_are_judged_by_their_errors() -> None:
    def one(psnr: float) -> Result:
        return Result((), 5, None, psnr, 10.0)

    assert passed(judge(Gate(always=AlwaysRules(psnr=19)), one(20), None, {}))
    assert not passed(judge(Gate(always=AlwaysRules(psnr=21)), one(20), None, {}))
    assert passed(judge(Gate(), one(19.8), one(20), {}))
    assert not passed(judge(Gate(), one(17), one(20), {}))
    assert passed(judge(Gate(), one(math.inf), one(math.inf), {}))  # of images that are equal


def test_what_is_no_number_never_passes() -> None:
    nothing = measured(torch.zeros(1, 3, 3, dtype=torch.int64))
    assert not passed(judge(Gate(), nothing, None, {}))


def test_rules_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "gate.toml"
    file.write_text('[always]\nmiou = 0.3\n[champion]\nmiou = "better"\nslower = 3\n')
    assert read_gate(file) == Gate(always=AlwaysRules(miou=0.3), champion=ChampionRules(miou="better", slower=3.0))
    assert read_gate(None) == Gate()
    for text, words in [
        ("[always]\nmiuo = 0.3\n", "gate: unknown key always.miuo: did you mean always.miou?"),
        ('[always]\nmiou = "high"\n', "gate: always.miou = 'high': Input should be a valid number"),
        ('[champion]\nmiou = "best"\n', '"better" or "not worse"'),
        ("[champion]\nslower = 0\n", "positive"),
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
        ("[always]\nmiou = 30", r"always\.miou is an IoU and lies between 0 and 1, not 30"),
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
    assert rules_from(rules_text(strict)) == strict != Gate()
    for damaged in ("", "{", '{"always": {"miou": 7}}', '{"never": {}}'):
        with pytest.raises(DataError, match="name a file"):
            rules_from(damaged)
