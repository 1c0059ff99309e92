"""What labels hold that the list of classes does not explain: counted for each label, shard and split, and told at the end.

Pixels whose id or color no class has don't count in training. A few are normal, at the smoothed edges of drawn masks; whole
areas of them, or a class that never occurs, mean that labels or list are wrong.
"""

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vitseg.errors import printable
from vitseg.labels import Label, shared_colors

KEPT = 64
"""Different values, and different remarks, that are kept of a shard."""
TOLD = 8
"""Different values that the manifest names, and remarks that become warnings."""
_MAX_TEXT = 300
_NAMED = 5  # classes that a line names


@dataclass(frozen=True)
class Remark:
    """Something that may be wrong with labels: what, in how many of them, and one of them."""

    text: str
    samples: int
    example: str


@dataclass(frozen=True)
class Findings:
    """Pixels, at the samples' size, that belong to no class, the most frequent of their values, and remarks."""

    unknown_pixels: int = 0
    unknown: Mapping[str, int] = field(default_factory=dict)
    """`color (0, 254, 0)` → pixels."""
    remarks: tuple[Remark, ...] = ()

    @staticmethod
    def from_json(row: Mapping[str, Any]) -> "Findings":
        """Read what `dataclasses.asdict` gave."""
        remarks = (Remark(str(it["text"]), int(it["samples"]), str(it["example"])) for it in row["remarks"])
        unknown = {str(value): int(pixels) for value, pixels in row["unknown"].items()}
        return Findings(int(row["unknown_pixels"]), unknown, tuple(remarks))


def merge(findings: Iterable[Findings], kept: int = KEPT) -> Findings:
    """Add findings up; of values and of remarks, the `kept` most frequent stay. Of equal ones, the first come first."""
    pixels, unknown, samples, examples = 0, Counter[str](), Counter[str](), dict[str, str]()
    for one in findings:
        pixels += one.unknown_pixels
        unknown.update(one.unknown)
        for remark in one.remarks:
            samples[remark.text] += remark.samples
            examples.setdefault(remark.text, remark.example)
    remarks = tuple(Remark(text, count, examples[text]) for text, count in samples.most_common(kept))
    return Findings(pixels, dict(unknown.most_common(kept)), remarks)


def label_warnings(
    classes: tuple[Label, ...], pixels: Mapping[str, tuple[int, ...]], findings: Findings
) -> tuple[str, ...]:
    """Return a line for everything about the labels that is likely a mistake.

    Args:
        classes: in order of train ids.
        pixels: split → labeled pixels of each class.
        findings: what all labels together hold that no class explains.
    """
    lines = []
    if absent := [label.name for label, count in zip(classes, pixels.get("train", ()), strict=False) if not count]:
        names = ", ".join(absent[:_NAMED]) + (f" and {len(absent) - _NAMED} more" if absent[_NAMED:] else "")
        lines.append(f"no label in train has a pixel of {names}: such a class can't be learned")
    if _look_like_train_ids(classes, [sum(column) for column in zip(*pixels.values(), strict=True)]):
        lines.append(
            f"no label has an id over {len(classes) - 1}, though classes have: these may be train ids "
            "in place of the label ids that are expected"
        )
    lines += [
        f"two classes have the color {color}: colors of masks can't tell them apart"
        for color in sorted(shared_colors(classes))
    ]
    for remark in findings.remarks[:TOLD]:
        labels = "1 label" if remark.samples == 1 else f"{remark.samples:,} labels"
        lines.append(f"{labels}, for example of {remark.example}: {remark.text}")
    return tuple(
        textwrap.shorten(printable(line), _MAX_TEXT, placeholder=" …") for line in lines
    )  # names may have line breaks


def _look_like_train_ids(classes: tuple[Label, ...], pixels: list[int]) -> bool:
    """Return whether classes occur, but none of those whose ids can't be train ids, which are most."""
    beyond = [bool(count) for label, count in zip(classes, pixels, strict=False) if label.id >= len(classes)]
    return 2 * len(beyond) > len(classes) and not any(beyond) and any(pixels)
