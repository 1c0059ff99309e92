"""Shards to shuffled batches: how fast, beside a plain loop and other loaders; from a bucket; how well shuffled."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from tests.bench.loader_peers import KINDS, name_of, samples_per_second
from tests.bench.measure import Figure, Side, compare, pack_scenes, per_second
from tests.bench.rank import timed_recipe
from tests.bench.train import run_ranks
from vitseg.data.loader import Batches
from vitseg.data.manifest import MANIFEST, Manifest
from vitseg.data.order import epoch_order
from vitseg.storage import join, open_store

SAMPLES = 1024
EPOCHS = 3
BATCH = 16


def figures(folder: Path) -> Iterator[Figure]:
    shards, manifest = pack_scenes(folder, train=SAMPLES, val=0, side=256, shard_samples=64)
    many = min(8, len(os.sched_getaffinity(0)))
    data = {
        count: Batches(shards, manifest, "train", batch_size=BATCH, flip=True, threads=count) for count in (1, 2, many)
    }

    def ours(threads: int = 2) -> None:
        count = sum(len(batch.keys) for epoch in range(EPOCHS) for batch in data[threads].epoch(epoch))
        assert count == EPOCHS * SAMPLES

    def bare() -> None:
        count = sum(read(Path(shards) / shard.name) for _ in range(EPOCHS) for shard in manifest.splits["train"].shards)
        assert count == EPOCHS * 2 * SAMPLES

    work = EPOCHS * SAMPLES
    yield compare(
        "loader: samples a second / tarfile and Pillow in a loop",
        per_second(work, ours), per_second(work, bare), goal=1.5, better="higher",
    )  # fmt: skip
    for kind in KINDS:
        yield compare(
            f"loader: samples a second, 2 threads / {name_of(kind)}, 2 workers, the same samples",
            per_second(work, ours), lambda kind=kind: samples_per_second(kind, shards, folder, EPOCHS, BATCH),
            goal=1.3, better="higher",
        )  # fmt: skip
    yield compare(
        f"loader: samples a second, {many} threads / 1 thread",
        per_second(work, lambda: ours(many)), per_second(work, lambda: ours(1)), goal=None, better="higher",
    )  # fmt: skip
    yield from _from_bucket(folder, shards, manifest, per_second(work, ours))
    for count in (12, 24, 120):
        yield compare(
            f"loader: distance of two samples of one shard / in a uniform permutation, {count} shards of 250 samples",
            lambda count=count: distance([250] * count), lambda count=count: 250 * count / 3,
            goal=None, better="higher", warm_up=False, rounds=1,
        )  # fmt: skip


def _from_bucket(folder: Path, shards: str, manifest: Manifest, disk: Side) -> Iterator[Figure]:
    """Yield what reading from a bucket costs; the embedded store runs on the same cores."""
    from flows.stack import environment, stack

    os.environ["VITSEG_HOME"] = str(folder / "home")
    stack.up(servers=["s3"])
    environment.enter(only_stack=True)
    try:
        bucket = copy(shards, "s3://vitseg/shards")
        batches = Batches(bucket, manifest, "train", batch_size=BATCH, flip=True, threads=2)

        def remote() -> None:
            count = sum(len(batch.keys) for epoch in range(EPOCHS) for batch in batches.epoch(epoch))
            assert count == EPOCHS * SAMPLES

        yield compare(
            "loader: samples a second from the bucket, its shards in the cache / from disk",
            per_second(EPOCHS * SAMPLES, remote), disk, goal=0.95, better="higher",
        )  # fmt: skip
        steps = 64
        few, _ = pack_scenes(folder / "few", train=steps * timed_recipe().data.batch_size, val=8, side=96)
        few = copy(few, "s3://vitseg/few")
        yield compare(
            f"loader: share of {steps} steps that 2 ranks wait for data from the bucket (tiny)",
            lambda: run_ranks(2, 1, few, folder)[0], lambda: 1.0, goal=0.02, better="lower",
        )  # fmt: skip
    finally:
        stack.down()


def copy(shards: str, address: str) -> str:
    """Copy a data set into a bucket, the manifest last."""
    source, store = open_store(shards), open_store(address)
    keys = sorted((info.key for info in source.list()), key=lambda key: key == MANIFEST)
    for key in keys:
        store.write(key, source.read(key))
    return join(address)


def distance(shard_samples: list[int]) -> float:
    """Return the mean distance, in an epoch, of two samples of one shard."""
    order = epoch_order(shard_samples, seed=0, epoch=0, window=16)[:, 0]
    means = []
    for shard in range(len(shard_samples)):
        places = np.flatnonzero(order == shard)
        count = len(places)  # of sorted places, the i-th is i times the larger one, and count - 1 - i times the smaller
        means.append((places * (2 * np.arange(count) - count + 1)).sum() / (count * (count - 1) / 2))
    return float(np.mean(means))


def read(path: Path) -> int:
    """Decode every photo and label of a tar; return their number."""
    count = 0
    with tarfile.open(path) as tar:
        for member in tar:
            if member.name.endswith((".jpg", ".png")):
                np.asarray(Image.open(io.BytesIO(tar.extractfile(member).read())))  # type: ignore[union-attr]
                count += 1
    return count
