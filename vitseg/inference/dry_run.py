"""What a job would do, and about how long it would take: a sample of the images goes the whole way, but for the writing."""

import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from vitseg.inference.chunk import make_setting, segment_objects
from vitseg.inference.job import Job, ModelRef, Options, key_problem
from vitseg.inference.ledger import Listed, Row
from vitseg.inference.model import load_once
from vitseg.inference.plan import Made, list_source
from vitseg.inference.reuse import find_mask
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
    """Objects whose mask is there and still holds."""
    todo: int
    """The others: they would be read, and segmented where they are images."""
    bytes: int
    """Size of those others."""
    sampled: int = 0
    """Of those others, as many as were read and predicted to know what follows."""
    sample_failed: int = 0
    """Of the sample: they could not be read."""
    images_per_second: float | None = None
    """Of one worker; without writing. None where there is nothing to do."""
    seconds: float | None = None
    """What all of them would take this one worker."""
    price: float | None = None
    """Of those seconds, at the price that was told."""

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


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
    """Count what `plan_job` with the same arguments would leave to do, and time a sample of it; writes nothing.

    Raises:
        NotFoundError: the source does not exist or is empty.
        UsageError: DEST is the source itself.
    """
    source, dest = canonical(source), canonical(dest)
    store = open_store(dest)
    root, objects = list_source(source, dest)
    made = Made.under(store)
    listed = done = size = 0
    chance = random.Random(0)
    sample: list[ObjectInfo] = []

    def is_done(info: ObjectInfo) -> bool:
        if key_problem(info.key, store) or not made.has(info.key):
            return False
        return find_mask(store, info, model.sha256, options) is not None

    with ThreadPoolExecutor(_THREADS) as pool:
        while block := list(islice(objects, _BLOCK)):
            there = list(pool.map(is_done, block))
            for info, is_there in zip(block, there, strict=True):
                listed += 1
                if is_there:
                    done += 1
                    continue
                size += info.size
                _draw(sample, info, listed - done, chance)
            if progress:
                progress(listed)
    counts = DryRun(listed=listed, done=done, todo=listed - done, bytes=size)
    if not sample:
        return counts
    job = Job(
        id="dry-run", source=source, root=root, dest=dest, model=model, options=options, batch_size=batch_size,
        chunk_images=len(sample), listed=len(sample), bytes=0, listing="",
    )  # fmt: skip
    rate, failed = _time(job, sample)
    seconds = counts.todo / rate
    return DryRun(
        listed=listed, done=done, todo=counts.todo, bytes=size, sampled=len(sample), sample_failed=failed,
        images_per_second=round(rate, 3), seconds=round(seconds, 1),
        price=None if price_per_hour is None else round(seconds / 3600 * price_per_hour, 4),
    )  # fmt: skip


def _draw(sample: list[ObjectInfo], info: ObjectInfo, number: int, chance: random.Random) -> None:
    """Keep a uniform sample of what goes by: https://en.wikipedia.org/wiki/Reservoir_sampling, algorithm R."""
    if len(sample) < SAMPLED:
        sample.append(info)
    elif (place := chance.randrange(number)) < SAMPLED:
        sample[place] = info


def _time(job: Job, sample: list[ObjectInfo]) -> tuple[float, int]:
    """Return objects a second of the sample, and how many of it can't be read."""
    bundle, dest = load_once(job.model), open_store(job.dest)

    def go(objects: list[ObjectInfo]) -> list[Row]:
        setting = make_setting(job, bundle, _Nowhere(), fresh=True)
        listed = [Listed(info, key_problem(info.key, dest), made=False) for info in objects]
        return list(segment_objects(setting, dict(enumerate(listed)), lambda count: None)[0].values())

    go(sample[:_WARM_UP])
    started = time.perf_counter()
    rows = go(sample)
    return len(sample) / (time.perf_counter() - started), sum(row.status == "failed" for row in rows)


class _Nowhere(LocalStore):
    """Finds nothing and forgets what it is given."""

    def __init__(self) -> None:
        super().__init__(Path(os.devnull))

    def write(
        self, key: str, data: bytes | BinaryIO, *, metadata: dict[str, str] | None = None,
        content_type: str | None = None, if_absent: bool = False, if_match: str | None = None,
    ) -> bool:  # fmt: skip
        """Forget it."""
        return True
