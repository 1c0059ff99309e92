"""Segment one chunk of a job: read ahead, predict in batches, write behind; one row for every object.

    readers (threads)      is the mask there? fetch → decode → shrink      Task or Row
    this thread            batches through the model → class ids           Prediction (or an image: Painting)
    writers (threads)      encode → pictures → mask                        Row

Between them at most so many objects, bytes and pixels wait that memory stays bounded.
"""

import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from vitseg.errors import DataError, NotFoundError, UsageError
from vitseg.inference.job import Job, ModelRef
from vitseg.inference.ledger import (
    ChunkCounts,
    Listed,
    Row,
    count_rows,
    read_listing,
    read_statuses,
    write_part,
)
from vitseg.inference.objects import Setting, Task, photo_of, read_object, write_object
from vitseg.inference.predict import (
    Painting,
    Prediction,
    paint_resized,
    paint_tiled,
    pixel_moments,
    predict_resized,
    predict_tiled,
)
from vitseg.masks import mask_ids
from vitseg.model.bundle import Bundle, load_bundle
from vitseg.storage import open_store

_READERS = 4
_WRITERS = 4
_BYTES_AHEAD = 256 * 2**20  # of objects that are read, and not predicted yet
_PIXELS_BEHIND = 64_000_000  # of masks that are predicted, and not written yet; one larger may pass alone
_LOADING = threading.Lock()


def segment_chunk(job: Job, index: int) -> ChunkCounts:
    """Make the masks of one chunk and write its rows; a chunk that has its rows is left alone.

    Safe to repeat and to kill: what is there already is recognised, whole objects are written or none.

    Raises:
        AccessError: the source or destination refuses these credentials.
        StorageError: the destination can't be read or written.
        DataError: the model is not the one that was planned, or its scores are not numbers.
        UsageError: the job's options ask for class ids or pictures that this model doesn't have.
    """
    dest = open_store(job.dest)
    try:
        return count_rows(index, read_statuses(dest, job, index), written=0)
    except NotFoundError:
        objects = read_listing(dest, job, index)
    bundle = _load_once(job.model)
    if not bundle.classes and (job.options.also or job.options.ids != "train"):
        raise UsageError(f"{job.model.name} has no classes, it makes images: leave out --also and --ids")
    numbers, palette = mask_ids(bundle.classes, job.options.ids)
    rows, written = _segment(Setting(job, open_store(job.root), dest, bundle, numbers, palette), objects)
    write_part(dest, job, index, rows)
    return count_rows(index, [row.status for row in rows], written)


def _segment(setting: Setting, objects: list[Listed]) -> tuple[list[Row], int]:
    """Return the row of each object, in order, and how many masks were written."""
    rows: dict[int, Row] = {}
    batch: list[tuple[int, Task]] = []
    behind: deque[tuple[int, int, Future[Row]]] = deque()  # place, pixels, what writes it
    written = 0

    def settle(*, most: int, pixels: int = 0) -> None:
        # Wait until at most `most` masks are being written, and there is room for one of so many pixels.
        nonlocal written
        while behind and (len(behind) > most or sum(size for _, size, _ in behind) + pixels > _PIXELS_BEHIND):
            place, _, future = behind.popleft()
            rows[place] = future.result()
            written += 1

    def flush() -> None:
        for place, task, prediction, seconds in _predictions(setting, batch):
            pixels = task.size[0] * task.size[1]
            settle(most=2 * _WRITERS, pixels=pixels)
            behind.append((place, pixels, writers.submit(write_object, setting, task, prediction, seconds)))
        batch.clear()

    with ExitStack() as stack:  # after an error, what has not begun is not begun any more
        readers = ThreadPoolExecutor(_READERS, "vitseg-read")
        stack.callback(readers.shutdown, cancel_futures=True)
        writers = ThreadPoolExecutor(_WRITERS, "vitseg-write")
        stack.callback(writers.shutdown, cancel_futures=True)
        read = functools.partial(read_object, setting)
        count = max(2 * _READERS, 2 * setting.job.batch_size)
        for place, found in enumerate(_ahead(readers, read, objects, count)):
            if isinstance(found, Row):
                rows[place] = found
                continue
            batch.append((place, found))
            full = len(batch) == setting.job.batch_size
            if full or sum(task.info.size for _, task in batch) > _BYTES_AHEAD:
                flush()
        flush()
        settle(most=0)
    return [rows[place] for place in range(len(objects))], written


def _ahead(
    pool: ThreadPoolExecutor, work: Callable[[Listed], Row | Task], objects: Iterable[Listed], count: int
) -> Iterator[Row | Task]:
    """Yield `work` of each object in order, with up to `count` of them, or so many bytes, under way."""
    waiting: deque[tuple[int, Future[Row | Task]]] = deque()
    size = 0
    for item in objects:
        while waiting and (len(waiting) == count or size + item.info.size > _BYTES_AHEAD):
            done, future = waiting.popleft()
            yield future.result()
            size -= done
        waiting.append((item.info.size, pool.submit(work, item)))
        size += item.info.size
    while waiting:
        yield waiting.popleft()[1].result()


def _predictions(
    setting: Setting, batch: list[tuple[int, Task]]
) -> Iterator[tuple[int, Task, Prediction | Painting, float]]:
    """Yield each task of a batch with what the model says, and the seconds of work on it so far."""
    if not batch:
        return
    job, bundle = setting.job, setting.bundle
    network = bundle.predict if bundle.classes else bundle.colors
    started = time.perf_counter()
    prediction: Prediction | Painting
    if job.options.tile:
        for place, task in batch:
            started = time.perf_counter()
            photo = photo_of(task, job)
            slide = predict_tiled if bundle.classes else paint_tiled
            whole = functools.partial(network, moments=pixel_moments(photo))
            prediction = slide(whole, photo, bundle.image_size, job.batch_size)
            yield place, task, prediction, task.seconds + time.perf_counter() - started
        return
    scores = network(torch.from_numpy(np.stack([task.pixels for _, task in batch])))
    share = (time.perf_counter() - started) / len(batch)
    for (place, task), own in zip(batch, scores, strict=True):
        started = time.perf_counter()
        prediction = (predict_resized if bundle.classes else paint_resized)(own, task.size)
        yield place, task, prediction, task.seconds + share + time.perf_counter() - started


def _load_once(model: ModelRef) -> Bundle:
    with _LOADING:  # two threads would load it twice
        return _loaded(model.folder, model.sha256)


@functools.lru_cache(maxsize=2)
def _loaded(folder: str, sha256: str) -> Bundle:
    bundle = load_bundle(Path(folder))
    if bundle.sha256 != sha256:
        raise DataError(f"the model in {folder} has sha256 {bundle.sha256}, but {sha256} was planned")
    if torch.cuda.is_available():
        bundle.model.to("cuda")
    return bundle
