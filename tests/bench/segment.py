"""What batch segmentation costs over the model: listing, reading, scaling, masks, rows."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import torch

from tests.bench.measure import Figure, compare, per_second, say
from vitseg.config import load_recipe
from vitseg.data.photographs import write_photographs
from vitseg.inference.chunk import segment_chunk
from vitseg.inference.job import ModelRef
from vitseg.inference.plan import plan_job
from vitseg.labels import CITYSCAPES, train_classes
from vitseg.model.bundle import load_bundle, save_bundle
from vitseg.model.segmenter import build_model

IMAGES = 32
BATCH = 8
SIZE = (256, 256)


def figures(folder: Path) -> Iterator[Figure]:
    say(f"drawing {IMAGES} photographs")
    source, numbers = str(folder / "photographs"), itertools.count()
    write_photographs(source, count=IMAGES, seed=0)
    classes = train_classes(CITYSCAPES)
    model = build_model(load_recipe("small").model, SIZE, len(classes), seed=0)
    sha256 = save_bundle(folder / "bundle", model, classes)
    reference = ModelRef(name="bench", version="1", sha256=sha256, folder=str(folder / "bundle"))
    bundle = load_bundle(folder / "bundle")
    images = torch.randint(0, 256, (BATCH, 3, *SIZE), dtype=torch.uint8)

    def ours() -> None:
        dest = str(folder / f"masks-{next(numbers)}")  # a new one: masks that are there would be left alone
        job = plan_job(source, dest, model=reference, batch_size=BATCH, chunk_images=IMAGES // 2)
        counts = [segment_chunk(job, index) for index in range(job.chunks)]
        assert sum(part.written for part in counts) == IMAGES

    def bare() -> None:
        for _ in range(IMAGES // BATCH):
            bundle.predict(images)

    yield compare(
        "segment: images a second, photographs to masks / forward passes alone (small)",
        per_second(IMAGES, ours), per_second(IMAGES, bare), goal=0.90, better="higher",
    )  # fmt: skip
