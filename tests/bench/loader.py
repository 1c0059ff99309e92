"""How fast one process turns shards into shuffled batches, against reading the same tars in order, one by one."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from tests.bench.measure import Figure, compare, pack_scenes, per_second
from vitseg.data.loader import Batches

SAMPLES = 128
EPOCHS = 3


def figures(folder: Path) -> Iterator[Figure]:
    shards, manifest = pack_scenes(folder, train=SAMPLES, val=0, side=256, shard_samples=32)
    batches = Batches(shards, manifest, "train", batch_size=16, flip=True, threads=2)

    def ours() -> None:
        count = sum(len(batch.keys) for epoch in range(EPOCHS) for batch in batches.epoch(epoch))
        assert count == EPOCHS * SAMPLES

    def bare() -> None:
        count = sum(read(Path(shards) / shard.name) for _ in range(EPOCHS) for shard in manifest.splits["train"].shards)
        assert count == EPOCHS * 2 * SAMPLES

    work = EPOCHS * SAMPLES
    yield compare(
        "loader: samples a second / tarfile and Pillow in a loop",
        per_second(work, ours), per_second(work, bare), goal=1.5, better="higher",
    )  # fmt: skip


def read(path: Path) -> int:
    """Decode every photo and label of a tar; return how many these are."""
    count = 0
    with tarfile.open(path) as tar:
        for member in tar:
            if member.name.endswith((".jpg", ".png")):
                np.asarray(Image.open(io.BytesIO(tar.extractfile(member).read())))  # type: ignore[union-attr]
                count += 1
    return count
