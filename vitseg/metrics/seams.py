"""Seams: how much more often the class changes across the borders of patches than inside them.

A model that predicts each patch on its own leaves steps at the borders. The *seam ratio* is the share of neighboring
pixels whose classes differ across a border, divided by the same share inside patches. It is 1 if borders are nothing
special, as in the labels. Counts of images, batches and ranks add up exactly.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from vitseg.errors import DataError
from vitseg.labels import IGNORE_INDEX

SeamRatios = Mapping[str, Mapping[str, float | None]]
"""Ratios of `rows` and `columns` (None: undefined) by the side of the patches: pixels, as text for JSON's keys."""


def seam_counts(ids: Tensor, patch: int) -> Tensor:
    """Count neighboring pixels: whether a border of patches lies between them, and whether they differ.

    Args:
        ids: train ids, integers (B, H, W); pairs with an ignored pixel (255) are not counted.
        patch: side of the patches, pixels; the first one begins at the upper left corner.

    Returns:
        int64 (2, 2, 2): first, neighbors in the direction of rows (one above the other, across horizontal borders) or of
        columns (side by side); second, inside a patch or across a border; third, all pairs or those whose classes differ.

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
    return torch.stack(directions)


def seam_ratios(counts: Mapping[int, Tensor]) -> dict[str, dict[str, float | None]]:
    """Return the seam ratios, 0 or more, of `rows` and `columns` by the side of the patches, from `seam_counts` of each.

    None where one is undefined: there is no border, no pair, or no change inside any patch.
    """
    ratios: dict[str, dict[str, float | None]] = {}
    for patch, directions in counts.items():
        of = ratios[str(patch)] = {}
        for name, ((inside, changed), (across, changed_across)) in zip(
            ("rows", "columns"), directions.tolist(), strict=True
        ):
            of[name] = (changed_across * inside) / (across * changed) if across and changed else None
    return ratios


def worst_seam(ratios: SeamRatios) -> float:
    """Return the ratio furthest from 1, in proportion; NaN: there is none."""
    found = [ratio for sides in ratios.values() for ratio in sides.values() if ratio]
    return max(found, key=lambda ratio: abs(math.log(ratio)), default=math.nan)


def seam_text(ratios: SeamRatios, labels: SeamRatios) -> str:
    """Return ratios as text: `16-pixel patches: rows 1.52, columns 1.47 (labels 1.02, 0.99)`, a part per side."""

    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.2f}"

    return "; ".join(
        f"{patch}-pixel patches: rows {number(of['rows'])}, columns {number(of['columns'])} "
        f"(labels {number(labels[patch]['rows'])}, {number(labels[patch]['columns'])})"
        for patch, of in ratios.items()
    )
