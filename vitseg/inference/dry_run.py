"""What a job would do, and about how long it would take: a sample of the objects is read and predicted, not written."""

import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from vitseg.inference.chunk import segment_objects
from vitseg.inference.context import chunk_context
from vitseg.inference.job import Job, ModelRef, Options, key_problem
from vitseg.inference.ledger import Listed, Row
from vitseg.inference.model import load_once, own_device
from vitseg.inference.plan import MaskIndex, list_source
from vitseg.inference.reusable_mask import find_reusable_mask
from vitseg.precision import choose, time_forward
from vitseg.storage import LocalStore, ObjectInfo, canonical, open_store

SAMPLED = 32
_WARM_UP = 4
_THREADS = 16
_BLOCK = 1000  # objects in flight


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a job would do."""

    listed: int
    """Objects under the source."""
    done: int
    """Objects whose mask can be reused."""
    todo: int
    """All others: they would be read, and segmented if they are images."""
    bytes: int
    """Size of the objects to do."""
    sampled: int = 0
    """Of the objects to do, how many were read and predicted for the figures below."""
    sample_failed: int = 0
    """Of the sample, how many could not be read."""
    images_per_second: float | None = None
    """Of one worker, without writing. None where there is nothing to do."""
    seconds: float | None = None
    """How long this one worker would take for all of them."""
    price: float | None = None
    """Of those seconds, at the given price an hour."""


def dry_run(
    source: str,
    dest: str,
    *,
    model: ModelRef,
    options: Options = Options(),
    batch_size: int | None = None,
    price_per_hour: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> DryRun:
    """Count what `plan_job` with the same arguments would leave to do, and time a sample of it; write nothing.

    Raises:
        NotFoundError: the source does not exist or is empty.
        UsageError: DEST is the source itself.
    """
    source, dest = canonical(source), canonical(dest)
    store = open_store(dest)
    root, objects = list_source(source, dest)
    masks = MaskIndex.under(store)
    listed = done = size = 0
    dice = random.Random(0)
    sample: list[ObjectInfo] = []

    def is_done(info: ObjectInfo) -> bool:
        if key_problem(info.key, store) or not masks.may_have(info.key):
            return False
        return find_reusable_mask(store, info, model.sha256, options) is not None

    with ThreadPoolExecutor(_THREADS) as pool:
        while block := list(islice(objects, _BLOCK)):
            there = list(pool.map(is_done, block))
            for info, is_there in zip(block, there, strict=True):
                listed += 1
                if is_there:
                    done += 1
                    continue
                size += info.size
                _draw(sample, info, listed - done, dice)
            if progress:
                progress(listed)
    counts = DryRun(listed=listed, done=done, todo=listed - done, bytes=size)
    if not sample:
        return counts
    job = Job(
        id="dry-run", source=source, root=root, dest=dest, model=model, options=options, batch_size=batch_size,
        chunk_images=len(sample), listed=len(sample), bytes=0, listing="",
    )  # fmt: skip
    rate, failed = _time_sample(job, sample)
    seconds = counts.todo / rate
    price = None if price_per_hour is None else round(seconds / 3600 * price_per_hour, 4)
    return replace(
        counts, sampled=len(sample), sample_failed=failed, images_per_second=round(rate, 3), seconds=round(seconds, 1),
        price=price,
    )  # fmt: skip


def _draw(sample: list[ObjectInfo], info: ObjectInfo, number: int, dice: random.Random) -> None:
    """Keep a uniform sample of a stream: https://en.wikipedia.org/wiki/Reservoir_sampling, algorithm R."""
    if len(sample) < SAMPLED:
        sample.append(info)
    elif (place := dice.randrange(number)) < SAMPLED:
        sample[place] = info


def _time_sample(job: Job, sample: list[ObjectInfo]) -> tuple[float, int]:
    """Return objects a second, and how many of the sample can't be read."""
    bundle, dest = load_once(job.model), open_store(job.dest)
    precision = choose(own_device(), lambda: time_forward(bundle.model, bundle.image_size))

    def segment(objects: list[ObjectInfo]) -> list[Row]:
        context = chunk_context(job, bundle, _NoStore(), precision, fresh=True)
        listed = [Listed(info, key_problem(info.key, dest), made=False) for info in objects]
        return list(segment_objects(context, dict(enumerate(listed)), lambda count: None)[0].values())

    segment(sample[:_WARM_UP])
    started = time.perf_counter()
    rows = segment(sample)
    return len(sample) / (time.perf_counter() - started), sum(row.status == "failed" for row in rows)


class _NoStore(LocalStore):
    """Finds nothing and drops what is written."""

    def __init__(self) -> None:
        super().__init__(Path(os.devnull))

    def write(self, *_args: Any, **_options: Any) -> bool:
        """Drop it."""
        return True
