"""Seams: how much more often the class changes across the borders of patches than inside them.

A model that predicts each patch by itself leaves steps at the borders, even where its patches are right. The *seam
ratio* is the share of neighboring pixels whose class differs across a border, over the same share inside patches:
1 where borders are nothing special, as in the labels. Counts of images, batches and ranks add up exactly.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vitseg.errors import DataError
from vitseg.labels import IGNORE_INDEX

_DIRECTIONS = ("rows", "columns")
SeamRatios = Mapping[str, Mapping[str, float | None]]
"""By side of the patches (pixels, as text: JSON's keys) the ratios of `rows` and `columns`; None: there is none."""


@dataclass(frozen=True)
class SeamCounts:
    """What the neighboring pixels of some class maps do, for one side of patches.

    `counts` is int64 (2, 2, 2): neighbors in the direction of rows (one above the other, so that they see
    horizontal borders) and of columns (side by side); inside patches and across a border; all pairs, and those whose
    classes differ.
    """

    counts: Tensor

    def __add__(self, other: "SeamCounts") -> "SeamCounts":
        return SeamCounts(self.counts + other.counts)

    def ratios(self) -> dict[str, float | None]:
        """Return the seam ratio, 0 and up, of `rows` and `columns`.

        None where there is none: no border, no pair, or no change inside any patch, as where each patch is of one
        class; JSON has no infinity either.
        """
        found: dict[str, float | None] = {}
        for name, ((inside, changed_inside), (across, changed_across)) in zip(
            _DIRECTIONS, self.counts.tolist(), strict=True
        ):
            defined = across and changed_inside
            found[name] = (changed_across * inside) / (across * changed_inside) if defined else None
        return found


def seam_counts(ids: Tensor, patch: int) -> SeamCounts:
    """Count neighboring pixels by whether a border of patches lies between them, and whether they differ.

    Args:
        ids: train ids, integers (B, H, W); pairs with a pixel of 255 count nowhere.
        patch: side of the patches, pixels; the first begins at the upper left corner.

    Raises:
        DataError: the ids are not (B, H, W), or `patch` is not positive.
    """
    if ids.ndim != 3 or patch < 1:
        raise DataError(f"seams need class maps (B, H, W) and patches of at least 1 pixel: {tuple(ids.shape)}, {patch}")
    known = ids != IGNORE_INDEX
    directions = []
    for axis in (1, 2):
        length = max(0, ids.shape[axis] - 1)
        pairs = known.narrow(axis, 0, length) & known.narrow(axis, ids.shape[axis] - length, length)
        differ = pairs & (ids.narrow(axis, 0, length) != ids.narrow(axis, ids.shape[axis] - length, length))
        lines = torch.stack([one.sum(dim=(0, 3 - axis)) for one in (pairs, differ)], dim=1)  # (length, 2)
        across = (torch.arange(1, length + 1, device=ids.device) % patch == 0)[:, None]
        directions.append(torch.stack([(lines * ~across).sum(0), (lines * across).sum(0)]))
    return SeamCounts(torch.stack(directions))


def seam_ratios(counts: Mapping[int, SeamCounts]) -> dict[str, dict[str, float | None]]:
    """Return the ratios of several sides of patches, by side."""
    return {str(patch): one.ratios() for patch, one in counts.items()}


def worst_seam(ratios: SeamRatios) -> float:
    """Return the ratio that is furthest from 1, in proportion; NaN where there is none."""
    found = [ratio for sides in ratios.values() for ratio in sides.values() if ratio]
    return max(found, key=lambda ratio: abs(math.log(ratio)), default=math.nan)


def seam_text(ratios: SeamRatios, truth: SeamRatios) -> str:
    """Say ratios in words: `16-pixel patches: rows 1.52, columns 1.47 (labels 1.02, 0.99)`, a part for each side."""

    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.2f}"

    return "; ".join(
        f"{patch}-pixel patches: rows {number(of['rows'])}, columns {number(of['columns'])} "
        f"(labels {number(truth[patch]['rows'])}, {number(truth[patch]['columns'])})"
        for patch, of in ratios.items()
    )
