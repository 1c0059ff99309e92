"""The gate: what a version must reach before a person may promote it; its verdict is in the version's tags.

Its rules are in a TOML file:

    [always]                   # for every version, the first one too
    miou = 0.3                 # least mIoU on the holdout
    worst_class = 0.05         # least IoU of any class there
    psnr = 20.0                # least PSNR, decibels, of a model without classes

    [champion]                 # against the version in use, on the same images
    miou = "better"            # "better": the 95% interval lies above 0; "not worse": it does not lie below 0
    class_drop = 0.1           # most IoU that a class may lose, at the upper end of its interval
    psnr_drop = 0.5            # most PSNR, decibels, that a model without classes may lose
    slower = 1.5               # most times as long that an image may take

Floors hold for all classes of a version that its holdout has, rules against the champion for those that both know. Where
they share none, or none that the holdout has, floors are all that is left, and `--auto-promote` leaves the decision to a person.

Rules that a file leaves out keep their defaults, which ask for little: the floors are yours to set.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated, Literal

from mlflow import MlflowClient
from pydantic import Field
from pydantic.dataclasses import dataclass

from vitseg.architecture import STRICT
from vitseg.config import build, read_toml
from vitseg.errors import DataError, UsageError
from vitseg.metrics.result import Evaluation
from vitseg.recipe import NotNegative, Positive
from vitseg.registry.comparison import Difference
from vitseg.registry.mlflow_request import mlflow_request
from vitseg.registry.versions import Version, set_tags, timestamp

PASSED, FAILED = "passed", "failed"
NO_CHAMPION = "none"
_UNKNOWN = "unknown"
_CHAMPION_SHA256 = "compared_to_sha256"  # tag: the champion's identity; verdicts of earlier versions of vitseg lack it
_COMPARED = "compared"  # tag: whether anything could be compared with the champion; earlier verdicts lack it
_RULES = "rules"  # tag: the gate's rules, as JSON

Iou = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AlwaysRules:
    """Floors for every version."""

    miou: Iou = 0.0
    worst_class: Iou = 0.0
    psnr: float = 0.0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ChampionRules:
    """Rules against the champion."""

    miou: Literal["better", "not worse"] = "not worse"
    class_drop: Iou = 0.1
    psnr_drop: NotNegative = 0.5
    slower: Positive = 2.0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Gate:
    """All rules."""

    always: AlwaysRules = field(default_factory=AlwaysRules)
    champion: ChampionRules = field(default_factory=ChampionRules)


@dataclass(frozen=True)
class RuleResult:
    """One rule applied to a version: threshold and value as text, and whether the version passed."""

    rule: str
    threshold: str
    value: str
    passed: bool


def read_gate(file: Path | None) -> Gate:
    """Return the rules in a file; None: the defaults.

    Raises:
        UsageError: a rule is unknown, or its value is impossible.
        NotFoundError: the file does not exist.
    """
    return build(Gate, read_toml(file, "gate") if file else {}, "gate")


def apply_rules(
    gate: Gate, candidate: Evaluation, champion: Evaluation | None, changes: Mapping[str, Difference]
) -> tuple[RuleResult, ...]:
    """Apply the rules to a version and the champion on the same images; without a champion, only the floors.

    `changes` are the differences of champion (A) and candidate (B), by metric; there are none without classes. They are
    about the classes that both know: only the floors hold for classes that are new.
    """
    if not candidate.classes:
        results = [_floor("PSNR", gate.always.psnr, candidate.psnr)]
        if champion is not None:
            results.append(_psnr_loss(gate.champion.psnr_drop, candidate, champion))
    else:
        scores = candidate.scores
        pixels = candidate.confusion.sum(1)[: len(candidate.classes)].tolist()
        ious = dict(zip(candidate.classes, (iou or 0.0 for iou in scores.per_class_iou), strict=True))
        labeled = [name for name, count in zip(candidate.classes, pixels, strict=True) if count]
        worst = min(labeled, key=lambda name: ious[name], default="")
        results = [
            _floor("mIoU", gate.always.miou, scores.miou),
            _floor(f"IoU of the worst class ({worst})", gate.always.worst_class, ious.get(worst, math.nan)),
        ]
        if champion is not None:
            shared = sum(name.startswith("iou/") for name in changes)
            of = f" ({shared} shared classes)" if shared < len(candidate.classes) else ""
            results.append(_miou_change(gate.champion.miou, changes["miou"], of))
            results.append(_class_change(gate.champion.class_drop, changes))
    if champion is not None:
        results.append(_slowdown(gate.champion.slower, candidate, champion))
    return tuple(results)


def all_passed(results: tuple[RuleResult, ...]) -> bool:
    """Return whether a version passed all rules."""
    return all(result.passed for result in results)


def _floor(rule: str, least: float, value: float) -> RuleResult:
    return RuleResult(rule, f"≥ {least:g}", f"{value:.3f}", value >= least)  # NaN never passes


def _psnr_loss(most: float, candidate: Evaluation, champion: Evaluation) -> RuleResult:
    loss = 0.0 if candidate.psnr == champion.psnr else champion.psnr - candidate.psnr  # both may be infinite
    return RuleResult("PSNR loss against the champion", f"≤ {most:g} dB", f"{loss:.2f} dB", loss <= most)


def _miou_change(rule: str, change: Difference, of: str) -> RuleResult:
    if rule == "better":
        threshold, passed = "better: lower bound > 0", change.low is not None and change.low > 0
    else:
        threshold, passed = "not worse: upper bound ≥ 0", change.high is None or change.high >= 0
    return RuleResult(f"mIoU against the champion{of}", threshold, _interval(change), passed)


def _class_change(most: float, changes: Mapping[str, Difference]) -> RuleResult:
    """No class may lose more than `most`, not even at the upper end of its interval."""
    rule, threshold = "IoU change of the worst class", f"upper bound ≥ {0 - most:g}"
    upper = {name: row.high for name, row in changes.items() if name.startswith("iou/") and row.high is not None}
    if not upper:
        return RuleResult(rule, threshold, "nothing to compare", passed=True)
    worst = min(upper, key=lambda name: upper[name])
    value = f"{worst.removeprefix('iou/')}: {_interval(changes[worst])}"
    return RuleResult(rule, threshold, value, upper[worst] >= -most)


def _slowdown(most: float, candidate: Evaluation, champion: Evaluation) -> RuleResult:
    times = champion.images_per_second / candidate.images_per_second
    return RuleResult("time per image, relative to the champion", f"≤ {most:g}", f"{times:.2f}", times <= most)


def _interval(change: Difference) -> str:
    if change.delta is None:
        return "undefined"
    return f"{change.delta:+.3f} ({change.low:+.3f} to {change.high:+.3f})"


def record_verdict(
    version: Version,
    *,
    passed: bool,
    champion: Version | None,
    holdout: str,
    page: str,
    rules: Gate,
    compared: bool = True,
) -> None:
    """Write a verdict into a version's tags, and the review page into its description.

    The old verdict is removed first and the new one is written last: after a crash in between there is none.
    """
    tags = {
        "compared_to": champion_tag(champion, version),
        _CHAMPION_SHA256: champion.sha256 if champion else NO_CHAMPION,
    }
    tags |= {"holdout": holdout, "assessed_at": timestamp(), _COMPARED: "yes" if compared else "no"}
    set_tags(version, {"gate": _UNKNOWN, **tags, _RULES: json.dumps(asdict(rules), separators=(",", ":"))})
    with mlflow_request(f"writing the page of {version.uri}"):
        MlflowClient().update_model_version(version.name, version.version, page)
    set_tags(version, {"gate": PASSED if passed else FAILED})


def verdict_of(version: Version) -> str | None:
    """Return `passed` or `failed`; None where the version was never assessed, or not to the end."""
    found = version.tags.get("gate")
    return found if found in (PASSED, FAILED) else None


def is_compared(version: Version) -> bool:
    """Return whether a version had a champion to beat, or none was there: not where nothing could be compared."""
    return version.tags.get(_COMPARED) != "no"


def recorded_rules(version: Version | None) -> Gate | None:
    """Return the rules that were last applied to a version; None: it was never assessed.

    Raises:
        DataError: the tag holds something else.
    """
    text = version.tags.get(_RULES) if version else None
    try:
        return build(Gate, json.loads(text), "gate") if text else None
    except (ValueError, UsageError) as error:
        raise DataError(f"the rules of the last assessment can't be read ({error}): name a file of rules") from error


def is_stale(version: Version, champion: Version | None) -> bool:
    """Return whether a version was compared with another champion than this one."""
    if champion and version.tags.get(_CHAMPION_SHA256, champion.sha256) != champion.sha256:
        return True  # numbers begin anew where a model was deleted and created again
    return version.tags.get("compared_to") != champion_tag(champion, version)


def champion_tag(champion: Version | None, version: Version) -> str:
    """Return a champion as a tag of `version`: `3`, `approved/3` where it belongs to another model, `none`."""
    if champion is None:
        return NO_CHAMPION
    return champion.version if champion.name == version.name else f"{champion.name}/{champion.version}"
