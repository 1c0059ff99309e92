import threading

import numpy as np
import pytest

from vitseg.data.prefetch import ShardPrefetcher
from vitseg.errors import DataError


class Shard:
    """Stands for an open shard."""

    def __init__(self, number: int) -> None:
        self.number, self.closed = number, False

    def close(self) -> None:
        self.closed = True


class Source:
    """Opens shards, and notes which; the bad one can't be opened."""

    def __init__(self, bad: int = -1) -> None:
        self.bad, self.opened = bad, {}
        self.gate = threading.Event()
        self.gate.set()

    def open(self, number: int) -> Shard:
        self.gate.wait(30)
        if number == self.bad:
            raise DataError(f"shard {number} is corrupt")
        self.opened[number] = Shard(number)
        return self.opened[number]


def steps(*rows: list[int]) -> list[np.ndarray]:
    return [np.array(row) for row in rows]


def test_shards_are_open_for_the_steps_that_need_them_and_no_longer():
    source = Source()
    shards = ShardPrefetcher(source.open, steps([0, 1], [1, 2], [3, 3]), ahead=0)
    assert {number: shard.number for number, shard in shards.of_step(0).items()} == {0: 0, 1: 1}
    assert set(source.opened) == {0, 1}
    shards.release(0)
    assert [number for number, shard in source.opened.items() if shard.closed] == [0]
    assert set(shards.of_step(1)) == {1, 2}
    shards.release(1)
    assert [source.opened[number].closed for number in (0, 1, 2)] == [True, True, True]
    shards.close()


def test_the_next_shards_are_opened_before_their_turn():
    source = Source()
    source.gate.clear()
    shards = ShardPrefetcher(source.open, steps([0], [1], [2], [3]), ahead=2)
    assert not shards.ready(0)
    source.gate.set()
    shards.of_step(0)
    shards._pool.shutdown(wait=True)
    assert set(source.opened) == {0, 1, 2}
    assert shards.ready(0)


def test_an_error_belongs_to_the_step_that_needs_the_shard():
    shards = ShardPrefetcher(Source(bad=1).open, steps([0], [1]), ahead=1)
    shards.of_step(0)
    with pytest.raises(DataError, match="shard 1 is corrupt"):
        shards.of_step(1)
    shards.close()


def test_what_is_open_when_the_reader_stops_is_closed():
    source = Source()
    shards = ShardPrefetcher(source.open, steps([0, 1, 2]), ahead=0)
    shards.of_step(0)
    shards.close()
    assert all(shard.closed for shard in source.opened.values())
