"""The gate: what a version must reach before a person may promote it; rules in a TOML file, verdicts in words.

    [always]                   # for every version, the first one too
    miou = 0.3                 # at least, on the holdout
    worst_class = 0.05         # least IoU that any class there may have

    [champion]                 # against the version in use, on the same images
    miou = "better"            # "better": all of its interval lies above 0; "not worse": not all of it below
    class_drop = 0.1           # no class may surely lose more IoU than that
    slower = 1.5               # an image may take at most so many times as long

What a file leaves out keeps its default, which asks for little: the floors are yours to set.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from vitseg.config import build, read_toml
from vitseg.errors import DataError, UsageError
from vitseg.metrics import Scores
from vitseg.registry.comparison import Difference, Result


def _check_shares(section: str, **shares: float) -> None:
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise UsageError(f"gate: {section}.{name} is an IoU and lies between 0 and 1, not {share:g}")


@dataclass(frozen=True, kw_only=True)
class AlwaysRules:
    """Floors."""

    miou: float = 0.0
    """Least mIoU, 0–1."""
    worst_class: float = 0.0
    """Least IoU, 0–1, of each class that occurs in the truth."""
    psnr: float = 0.0
    """Least PSNR, decibels, of a model without classes."""

    def __post_init__(self) -> None:
        """Check ranges."""
        _check_shares("always", miou=self.miou, worst_class=self.worst_class)


@dataclass(frozen=True, kw_only=True)
class ChampionRules:
    """Compared with the champion."""

    miou: str = "not worse"
    """`better` or `not worse`, by more than chance explains."""
    class_drop: float = 0.1
    """Most IoU, 0–1, that any class may surely lose."""
    psnr_drop: float = 0.5
    """Most decibels that a model without classes may lose."""
    slower: float = 2.0
    """Most times as long that an image may take."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.miou not in ("better", "not worse"):
            raise UsageError(f'gate: champion.miou is "better" or "not worse", not {self.miou!r}')
        _check_shares("champion", class_drop=self.class_drop)
        if self.slower <= 0 or self.psnr_drop < 0:
            raise UsageError("gate: champion.slower must be positive, champion.psnr_drop not negative")


@dataclass(frozen=True, kw_only=True)
class Gate:
    """All rules."""

    always: AlwaysRules = field(default_factory=AlwaysRules)
    champion: ChampionRules = field(default_factory=ChampionRules)


@dataclass(frozen=True)
class Ruling:
    """One rule, what it asks for, what was found, and whether that is enough."""

    rule: str
    wanted: str
    found: str
    passed: bool


def read_gate(file: Path | None) -> Gate:
    """Read rules; without a file the defaults.

    Raises:
        UsageError: an unknown rule, or a value that can't be.
        NotFoundError: the file does not exist.
    """
    gate = build(Gate, read_toml(file, "gate") if file else {}, "gate")
    assert isinstance(gate, Gate)
    return gate


def rules_text(gate: Gate) -> str:
    """Return rules as a tag of the version that they judged, for whoever judges it again."""
    return json.dumps(asdict(gate), separators=(",", ":"))


def rules_from(text: str) -> Gate:
    """Return the rules that `rules_text` wrote.

    Raises:
        DataError: it is something else.
    """
    try:
        gate = build(Gate, json.loads(text), "gate")
    except (ValueError, UsageError) as error:
        raise DataError(f"the rules that a version was judged by can't be read ({error}): name a file") from error
    assert isinstance(gate, Gate)
    return gate


def judge(gate: Gate, candidate: Result, champion: Result | None, rows: Mapping[str, Difference]) -> tuple[Ruling, ...]:
    """Apply the rules.

    Args:
        gate: the rules.
        candidate: how the version did, now.
        champion: how the version in use did on the same images; None where there is none: floors alone count.
        rows: what `differences` says of champion (A) and candidate (B); empty for models without classes.
    """
    if not candidate.classes:
        return _judge_images(gate, candidate, champion)
    scores = Scores.from_confusion(candidate.confusion)
    seen = {
        name: iou or 0.0
        for name, iou, pixels in zip(
            candidate.classes, scores.per_class_iou, candidate.confusion.sum(1).tolist(), strict=True
        )
        if pixels
    }
    worst = min(seen, key=lambda name: seen[name], default="")
    rulings = [
        _floor("mIoU", gate.always.miou, scores.miou),
        _floor(f"IoU of the worst class, {worst}", gate.always.worst_class, seen.get(worst, math.nan)),
    ]
    if champion is not None:
        rulings += [_miou(gate.champion.miou, rows["miou"]), _classes(gate.champion.class_drop, rows)]
        rulings.append(_speed(gate.champion.slower, candidate, champion))
    return tuple(rulings)


def passed(rulings: tuple[Ruling, ...]) -> bool:
    """Say whether all rules are satisfied."""
    return all(ruling.passed for ruling in rulings)


def _judge_images(gate: Gate, candidate: Result, champion: Result | None) -> tuple[Ruling, ...]:
    rulings = [_floor("PSNR", gate.always.psnr, candidate.psnr)]
    if champion is not None:
        lost = 0.0 if candidate.psnr == champion.psnr else champion.psnr - candidate.psnr
        drop = gate.champion.psnr_drop
        rulings.append(Ruling("PSNR lost", f"≤ {drop:g} dB", f"{lost:.2f} dB", lost <= drop))
        rulings.append(_speed(gate.champion.slower, candidate, champion))
    return tuple(rulings)


def _floor(rule: str, least: float, found: float) -> Ruling:
    return Ruling(rule, f"≥ {least:g}", f"{found:.3f}", found >= least)  # what is no number never passes


def _miou(wanted: str, row: Difference) -> Ruling:
    edge = row.low if wanted == "better" else row.high
    enough = edge is not None and (edge > 0 if wanted == "better" else edge >= 0)
    found = "no number" if row.delta is None else f"{row.delta:+.3f} ({row.low:+.3f} to {row.high:+.3f})"
    return Ruling("mIoU against the champion", wanted, found, enough)


def _classes(most: float, rows: Mapping[str, Difference]) -> Ruling:
    """No class may lose more than `most`, even at the friendly end of its interval."""
    classes = {name: row for name, row in rows.items() if name.startswith("iou/") and row.high is not None}
    fallen = {name: row.high for name, row in classes.items() if row.high is not None}
    worst = min(fallen, key=lambda name: fallen[name], default=None)
    if worst is None:
        return Ruling("IoU lost by a class", f"surely ≤ {most:g}", "nothing to compare", passed=True)
    row = classes[worst]
    found = f"{worst.removeprefix('iou/')}: {row.delta:+.3f} ({row.low:+.3f} to {row.high:+.3f})"
    return Ruling("IoU lost by a class", f"surely ≤ {most:g}", found, fallen[worst] >= -most)


def _speed(most: float, candidate: Result, champion: Result) -> Ruling:
    times = champion.images_per_second / candidate.images_per_second
    return Ruling("time an image takes, over the champion's", f"≤ {most:g}", f"{times:.2f}", times <= most)
