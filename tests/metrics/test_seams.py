"""Seam ratios, counted by hand, and the same however the images are cut into parts."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vitseg.errors import DataError
from vitseg.metrics.seams import seam_counts, seam_ratios, seam_text, worst_seam


def random_ids(images: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 5, (images, height, width), generator=torch.Generator().manual_seed(seed))


def ratios_of(counts: torch.Tensor) -> dict[str, float | None]:
    return seam_ratios({8: counts})["8"]


def test_stripes_by_hand() -> None:
    # 6 × 8 pixels in patches of 4; each row changes after its pixels 2, 3 and 5.
    row = torch.tensor([0, 0, 0, 1, 2, 2, 3, 3])
    ids = row.repeat(6, 1)[None]
    counts = seam_counts(ids, 4)
    rows, columns = counts.tolist()
    assert rows == [[8 * 4, 0], [8 * 1, 0]]  # 5 pairs a column, one of them across the border between rows 3 and 4
    assert columns == [[6 * 6, 6 * 2], [6 * 1, 6 * 1]]  # 7 pairs a row: the one across the border differs
    assert ratios_of(counts) == {"rows": None, "columns": pytest.approx((1 / 1) / (2 / 6))}
    turned = seam_counts(ids.transpose(1, 2), 4)
    assert ratios_of(turned) == {"rows": pytest.approx(3.0), "columns": None}
    # Patches of 2: borders after the pixels 1, 3 and 5; changes at two of these three, and at one of four others.
    assert ratios_of(seam_counts(ids, 2))["columns"] == pytest.approx((2 / 3) / (1 / 4))


def test_noise_has_no_seams() -> None:
    ratios = ratios_of(seam_counts(random_ids(4, 128, 256), 16))
    assert ratios == {"rows": pytest.approx(1, abs=0.03), "columns": pytest.approx(1, abs=0.03)}


def test_patches_of_one_class_have_no_ratio_and_neither_has_a_single_patch() -> None:
    blocky = random_ids(2, 4, 4).repeat_interleave(8, 1).repeat_interleave(8, 2)
    (inside_rows, across_rows), (inside_columns, across_columns) = seam_counts(blocky, 8).tolist()
    assert inside_rows[1] == inside_columns[1] == 0 < min(across_rows[1], across_columns[1])
    assert ratios_of(seam_counts(blocky, 8)) == {"rows": None, "columns": None}
    assert ratios_of(seam_counts(random_ids(1, 8, 8), 8)) == {"rows": None, "columns": None}
    assert ratios_of(seam_counts(random_ids(1, 1, 1), 8)) == {"rows": None, "columns": None}
    assert ratios_of(seam_counts(random_ids(0, 8, 8), 4)) == {"rows": None, "columns": None}


def test_pairs_with_an_ignored_pixel_count_nowhere() -> None:
    ids = torch.tensor([[[0, 255, 1, 2], [0, 0, 1, 255]]], dtype=torch.uint8)
    rows, columns = seam_counts(ids, 2).tolist()
    assert rows == [[2, 0], [0, 0]]
    assert columns == [[2, 1], [1, 1]]


@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.integers(0, 9))
def test_it_is_a_loop_over_pairs(images: int, height: int, width: int, patch: int, seed: int) -> None:
    ids = random_ids(images, height, width, seed)
    expected = torch.zeros(2, 2, 2, dtype=torch.int64)
    for image in ids.tolist():
        for y in range(height):
            for x in range(width):
                if y:
                    expected[0, int(y % patch == 0)] += torch.tensor([1, image[y][x] != image[y - 1][x]])
                if x:
                    expected[1, int(x % patch == 0)] += torch.tensor([1, image[y][x] != image[y][x - 1]])
    found = seam_counts(ids, patch)
    assert found.dtype == torch.int64
    assert torch.equal(found, expected)


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_counts_of_parts_add_up_to_the_whole(parts: int) -> None:
    ids = random_ids(6, 24, 40)
    total = torch.zeros(2, 2, 2, dtype=torch.int64)
    for part in ids.chunk(parts):
        total += seam_counts(part, 8)
    assert torch.equal(total, seam_counts(ids, 8))
    assert ratios_of(total) == ratios_of(seam_counts(ids, 8))


def test_ratios_as_text() -> None:
    labels = {16: seam_counts(random_ids(1, 32, 32), 16)}
    text = seam_text({"16": {"rows": 1.519, "columns": None}}, {"16": {"rows": 1.0, "columns": 0.991}})
    assert text == "16-pixel patches: rows 1.52, columns – (labels 1.00, 0.99)"
    assert seam_text({}, {}) == ""
    assert seam_text(seam_ratios(labels), seam_ratios(labels)).startswith("16-pixel patches: rows ")


def test_what_is_no_stack_of_class_maps_is_refused() -> None:
    with pytest.raises(DataError, match="class maps"):
        seam_counts(torch.zeros(4, 4), 2)
    with pytest.raises(DataError, match="at least 1 pixel"):
        seam_counts(torch.zeros(1, 4, 4), 0)


def test_the_worst_ratio_is_the_furthest_from_one_either_way() -> None:
    assert worst_seam({"8": {"rows": 1.5, "columns": 0.5}, "16": {"rows": None, "columns": 1.1}}) == 0.5
    assert worst_seam({"8": {"rows": 1.5, "columns": 0.9}}) == 1.5
    assert math.isnan(worst_seam({"8": {"rows": None, "columns": None}}))
