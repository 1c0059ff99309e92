"""The order in which an epoch reads its samples: a pure function of the data set, the seed and the epoch.

Shards are shuffled, and then samples among `window` shards at a time, so that only about that many files are
open at once. Up to `window` shards, that is a uniform permutation. With more shards, two samples of one shard come
nearer to each other than in a uniform permutation (at 0.56 of the distance with 24 shards, 0.13 with 120; see `make bench
ONLY=loader`), but shards are random parts of their split already: neighbors share neither city nor class. A window is a
set of open files; samples are read where they lie, so it costs no memory but the index of opened shards, about 100 bytes a
sample.

The order does not depend on ranks: batch `k` is the same set of samples for any number of them. So a run can be
repeated on other machines and resumed at any step, and every rank takes the same number of steps.

Shuffles sort by the raw output of a seeded PCG64, which NumPy promises never to change; `Generator.permutation`
may change between releases (https://numpy.org/neps/nep-0019-rng-policy.html).
"""

from collections.abc import Sequence

import numpy as np

from vitseg.errors import UsageError

_SHARDS, _SAMPLES, _FLIPS = range(3)  # independent random streams of one epoch


def epoch_order(shard_samples: Sequence[int], *, seed: int, epoch: int, window: int) -> np.ndarray:
    """Return every sample of an epoch once, in reading order: int64 (N, 2), index of the shard and of the sample in it.

    Args:
        shard_samples: number of samples of each shard, in the manifest's order.
        seed: of the whole run.
        epoch: counted from 0; each has its own order.
        window: shards among which samples are shuffled.
    """
    counts = np.asarray(shard_samples, np.int64)
    shards = _shuffled(np.arange(len(counts)), _raw(len(counts), seed, epoch, _SHARDS))
    keys = _raw(int(counts.sum()), seed, epoch, _SAMPLES)
    parts = [np.empty((0, 2), np.int64)]
    start = 0
    for first in range(0, len(shards), window):
        rows = _rows(shards[first : first + window], counts)
        parts.append(_shuffled(rows, keys[start : start + len(rows)]))
        start += len(rows)
    return np.concatenate(parts)


def stored_order(shard_samples: Sequence[int]) -> np.ndarray:
    """Return every sample once, as the shards hold them: int64 (N, 2), as in `epoch_order`."""
    counts = np.asarray(shard_samples, np.int64)
    return _rows(np.arange(len(counts)), counts)


def epoch_flips(samples: int, *, seed: int, epoch: int) -> np.ndarray:
    """Return which positions of an epoch's order are mirrored, on average every second: bool (samples,)."""
    return _raw(samples, seed, epoch, _FLIPS) >> np.uint64(63) == 1


def rank_rows(rows: np.ndarray, step: int, *, batch_size: int, rank: int, world_size: int) -> np.ndarray:
    """Return one rank's part of one step of `rows` (N, …), the whole epoch; the parts of all ranks are the global batch.

    That is (batch_size / world_size, …): see `check_batch`. In a last batch that is not full it is fewer, perhaps none.
    """
    return rows[step * batch_size : (step + 1) * batch_size][rank::world_size]


def check_batch(batch_size: int, rank: int, world_size: int) -> None:
    """Raise a UsageError where a global batch can't be divided equally among the ranks."""
    if not 0 <= rank < world_size:
        raise UsageError(f"rank {rank} is not one of {world_size}: ranks count from 0")
    if batch_size < 1 or batch_size % world_size:
        nearest = max(1, round(batch_size / world_size)) * world_size
        raise UsageError(
            f"a batch of {batch_size} can't be shared equally by {world_size} ranks: "
            f"set data.batch_size to a multiple of {world_size}, such as {nearest}"
        )


def _raw(count: int, seed: int, epoch: int, stream: int) -> np.ndarray:
    # Seeds may be negative for people, not for NumPy.
    sequence = np.random.SeedSequence(seed % 2**64, spawn_key=(epoch, stream))
    return np.random.PCG64(sequence).random_raw(count)


def _shuffled(values: np.ndarray, keys: np.ndarray) -> np.ndarray:
    return values[np.argsort(keys, kind="stable")]


def _rows(shards: np.ndarray, counts: np.ndarray) -> np.ndarray:
    # Shards of 2 and 3 samples: (0, 0), (0, 1), (1, 0), (1, 1), (1, 2).
    sizes = counts[shards]
    firsts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.stack([np.repeat(shards, sizes), np.arange(int(sizes.sum())) - firsts], axis=1)
