from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitseg.data.order import check_batch, epoch_flips, epoch_order, rank_rows, stored_order
from vitseg.errors import UsageError

SIZES = st.lists(st.integers(0, 9), max_size=12)
SEEDS = st.integers(-(2**40), 2**64)
WINDOWS = st.integers(1, 5)


def pairs(order: np.ndarray) -> list[tuple[int, int]]:
    return [(int(shard), int(sample)) for shard, sample in order]


@given(SIZES, SEEDS, st.integers(0, 1000), WINDOWS)
def test_every_sample_comes_exactly_once(sizes, seed, epoch, window):
    expected = [(shard, sample) for shard, size in enumerate(sizes) for sample in range(size)]
    order = epoch_order(sizes, seed=seed, epoch=epoch, window=window)
    assert sorted(pairs(order)) == expected
    assert pairs(stored_order(sizes)) == expected
    again = epoch_order(sizes, seed=seed, epoch=epoch, window=window)
    assert np.array_equal(order, again)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), SEEDS, WINDOWS)
def test_no_more_shards_are_open_than_the_window(sizes, seed, window):
    shards = epoch_order(sizes, seed=seed, epoch=0, window=window)[:, 0]
    first = {shard: int(np.flatnonzero(shards == shard)[0]) for shard in range(len(sizes))}
    last = {shard: int(np.flatnonzero(shards == shard)[-1]) for shard in range(len(sizes))}
    for position in range(len(shards)):
        assert sum(first[shard] <= position <= last[shard] for shard in first) <= window


@given(SIZES, SEEDS, WINDOWS)
def test_a_step_holds_the_same_samples_for_any_number_of_ranks(sizes, seed, window):
    order = epoch_order(sizes, seed=seed, epoch=1, window=window)
    for step in range(len(order) // 12 + 1):
        whole = rank_rows(order, step, batch_size=12, rank=0, world_size=1)
        assert np.array_equal(whole, order[step * 12 : step * 12 + 12])
        for world_size in (2, 3, 4):
            parts = [
                rank_rows(order, step, batch_size=12, rank=rank, world_size=world_size) for rank in range(world_size)
            ]
            assert sorted(pairs(np.concatenate(parts))) == sorted(pairs(whole))
            if len(whole) == 12:
                assert {len(part) for part in parts} == {12 // world_size}


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [pairs(epoch_order([40] * 6, seed=seed, epoch=epoch, window=3)) for seed in range(5) for epoch in range(5)]
    assert all(one != other for i, one in enumerate(orders) for other in orders[:i])
    first_shards = {order[0][0] for order in orders}
    assert len(first_shards) == 6  # shards are shuffled, not only samples


def test_samples_of_a_window_are_mixed():
    shards = epoch_order([200] * 4, seed=0, epoch=0, window=4)[:, 0]
    changes = sum(a != b for a, b in pairwise(shards))
    assert 500 < changes < 700  # by chance 3 of 4 neighbors come from different shards


def test_the_order_of_a_run_survives_upgrades():
    """A run that is resumed with another release must meet the same samples: these values never change."""
    order = epoch_order([2, 3, 1], seed=7, epoch=3, window=2)
    assert pairs(order) == [(1, 1), (2, 0), (1, 0), (1, 2), (0, 1), (0, 0)]
    assert epoch_flips(12, seed=7, epoch=3).astype(int).tolist() == [1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 0]


def test_half_of_an_epoch_is_mirrored_and_another_half_next_time():
    flips = [epoch_flips(4000, seed=1, epoch=epoch) for epoch in range(2)]
    assert all(1850 < flip.sum() < 2150 for flip in flips)
    assert 1850 < (flips[0] != flips[1]).sum() < 2150


@pytest.mark.parametrize(
    ("batch_size", "world_size", "advice"), [(10, 4, "such as 8"), (1, 4, "such as 4"), (0, 1, "as 1")]
)
def test_a_batch_that_ranks_cannot_share_is_refused_with_advice(batch_size, world_size, advice):
    with pytest.raises(UsageError, match=advice):
        check_batch(batch_size, 0, world_size)


@pytest.mark.parametrize("rank", [-1, 2])
def test_a_rank_outside_the_world_is_refused(rank):
    with pytest.raises(UsageError, match="count from 0"):
        check_batch(4, rank, 2)
