"""What preprocessing costs beyond the transform itself: plan, hashes, checks, tar, records, manifest."""

import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from tests.bench.measure import Figure, compare, cpu_seconds, say
from vitseg.data.plan import make_plan
from vitseg.data.shards import commit, write_shard
from vitseg.data.synth import write_scenes
from vitseg.labels import CITYSCAPES, id_table

SCENES = 32
SIDE = 256


def figures(folder: Path) -> Iterator[Figure]:
    source, numbers = folder / "scenes", itertools.count()
    say(f"drawing {SCENES} scenes")
    write_scenes(str(source), train=SCENES, val=0, size=(1024, 512), seed=0)

    def ours() -> None:
        dest = str(folder / f"shards-{next(numbers)}")  # a new one: done shards would be left alone
        plan = make_plan(str(source), size=(SIDE, SIDE), shard_samples=16)
        commit(plan, [write_shard(shard, plan.options, dest) for shard in plan.shards], dest)

    def bare() -> None:
        table = id_table(CITYSCAPES)
        for photo in sorted(source.glob("leftImg8bit/*/*/*.png")):
            transform(photo, table)

    yield compare(
        "preprocess: CPU time a sample / Pillow's transform alone",
        cpu_seconds(ours), cpu_seconds(bare), goal=1.10, better="lower",
    )  # fmt: skip


def transform(photo: Path, table: np.ndarray) -> tuple[bytes, bytes]:
    """Do what every such pipeline must: decode, resize, map ids, encode. Filters and qualities are ours."""
    label = str(photo).replace("leftImg8bit.png", "gtFine_labelIds.png").replace("/leftImg8bit/", "/gtFine/")
    small, mask = io.BytesIO(), io.BytesIO()
    with Image.open(photo) as image:
        resized = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        resized.save(small, "JPEG", quality=95)
    with Image.open(label) as image:
        ids = table[np.asarray(image.resize((SIDE, SIDE), Image.Resampling.NEAREST))]
        Image.fromarray(ids).save(mask, "PNG", compress_level=4)
    return small.getvalue(), mask.getvalue()
