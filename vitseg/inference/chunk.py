"""Segment one chunk of a job: read ahead, predict in batches, write behind; one row for every object.

    readers (threads)   read_object: is there a mask? fetch → decode → resize    → Task or Row
    this thread         predict_batch: batches through the model → class ids     → Prediction or Row
    writers (threads)   write_object: encode → pictures → mask                   → Row

Between them at most so many objects, bytes and pixels wait that memory stays bounded. Two chunks at a time in a process,
or several processes, keep the model busy while one of them begins or ends.
"""

import functools
import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress

import torch

from vitseg.bounded_map import bounded_map
from vitseg.errors import AccessError, StorageError
from vitseg.inference.context import ChunkContext, chunk_context
from vitseg.inference.gpu_stream import lend_stream
from vitseg.inference.job import Job
from vitseg.inference.ledger import ChunkCounts, Listed, Part, Row, read_listing, read_part, write_part
from vitseg.inference.model import default_batch, job_precision, load_once
from vitseg.inference.predict import Prediction, launch_batch, predict_batch
from vitseg.inference.read import Task, read_object
from vitseg.inference.write import write_object
from vitseg.precision import time_forward
from vitseg.storage import open_store

_READERS = 4
_WRITERS = 4
_BYTES_AHEAD = 256 * 2**20  # of objects that are read, and not predicted yet
_PIXELS_LAUNCHED = 256_000_000  # of the masks of a batch on a GPU, which then gets no more images
_PIXELS_BEHIND = 64_000_000  # of masks that are predicted, and not written yet; one larger may pass alone

Progress = Callable[[int], None]


def segment_chunk(
    job: Job, index: int, *, threads: int | None = None, progress: Progress = lambda objects: None
) -> ChunkCounts:
    """Make the masks of one chunk and write its rows; in a finished chunk, try what failed again.

    Safe to repeat and to kill: finished masks are recognized, and objects are written whole or not at all.

    Args:
        job: the planned job.
        index: 0 … job.chunks - 1.
        threads: of the processor, for the model; None: as torch has them.
        progress: called from this thread with the number of objects finished since the last call.

    Raises:
        AccessError: the source or destination refuses these credentials.
        StorageError: the destination can't be read or written.
        DataError: the model is not the one that was planned, or its scores are not numbers.
        UsageError: the job's options ask for class ids or pictures that this model doesn't have.
    """
    dest = open_store(job.dest)
    before = read_part(dest, job, index)
    if before and not before.counts(index).failed:
        progress(len(before.rows))
        return before.counts(index)
    objects = read_listing(dest, job, index)
    rows = {place: row for place, row in enumerate(before.rows) if row.status != "failed"} if before else {}
    progress(len(rows))
    bundle = load_once(job.model)
    if threads:
        torch.set_num_threads(threads)
    precision = job_precision(job, dest, lambda: time_forward(bundle.model, bundle.image_size))
    context = chunk_context(job, bundle, dest, precision, fresh=not before and not dest.stat(job.begun_key(index)))
    dest.write(job.begun_key(index), b"")
    left = {place: objects[place] for place in range(len(objects)) if place not in rows}
    new_rows, written = segment_objects(context, left, progress)
    rows |= new_rows
    earlier = before.stages if before else {}
    stages = {name: seconds + earlier.get(name, 0) for name, seconds in context.stopwatch.seconds.items()}
    part = Part([rows[place] for place in range(len(objects))], stages)
    write_part(dest, job, index, part)
    with suppress(AccessError, StorageError):  # credentials that may write may not always delete; nothing depends on it
        dest.delete(job.begun_key(index))
    return part.counts(index, written)


def batches_ahead(context: ChunkContext) -> int:
    """Return how many batches are launched before one is collected: a GPU computes one while another is written."""
    return 1 if context.device.type == "cuda" and not context.job.options.tile else 0


def segment_objects(
    context: ChunkContext, objects: dict[int, Listed], progress: Progress
) -> tuple[dict[int, Row], int]:
    """Return the row of each object, by its place, and how many masks were written."""
    rows: dict[int, Row] = {}
    written = 0
    behind: deque[tuple[int, int, Future[Row]]] = deque()  # place, pixels, what writes it
    batch: list[tuple[int, Task]] = []
    batch_size = context.job.batch_size or default_batch(context.device, context.bundle.image_size)
    ahead = batches_ahead(context)
    launched: deque[Iterator[tuple[int, Prediction | Row]]] = deque()

    def settle(*, most: int, pixels: int = 0) -> None:
        nonlocal written
        # Wait until at most `most` masks are being written, and there is room for one of so many pixels.
        while behind and (len(behind) > most or sum(size for _, size, _ in behind) + pixels > _PIXELS_BEHIND):
            place, _, future = behind.popleft()
            rows[place] = future.result()
            written += rows[place].status == "ok"
            progress(1)

    def flush(*, ahead: int) -> None:
        # Predict the batch, and wait until at most `ahead` batches are being predicted.
        launched.append(begin(context, tuple(batch)))
        batch.clear()
        while len(launched) > ahead:
            for place, found in launched.popleft():
                if isinstance(found, Prediction):
                    settle(most=max(2 * _WRITERS, batch_size), pixels=found.pixels)
                    behind.append((place, found.pixels, writers.submit(write_object, context, found)))
                else:
                    rows[place] = found
                    progress(1)

    def is_full() -> bool:
        pixels = sum(math.prod(task.size or ()) for _, task in batch) if ahead else 0
        stored = sum(task.info.size for _, task in batch)
        return len(batch) == batch_size or stored > _BYTES_AHEAD or pixels > _PIXELS_LAUNCHED

    with ExitStack() as stack:  # after an error, nothing that waits is begun
        readers = ThreadPoolExecutor(_READERS, "vitseg-read")
        stack.callback(readers.shutdown, cancel_futures=True)
        writers = ThreadPoolExecutor(_WRITERS, "vitseg-write")
        stack.callback(writers.shutdown, cancel_futures=True)
        begin = functools.partial(predict_batch, batch_size=batch_size)
        if ahead:
            options = context.job.options
            lent = lend_stream(
                context.bundle, context.device, batch_size, precision=context.precision, flip=options.flip
            )
            begin = functools.partial(launch_batch, stream=stack.enter_context(lent))
        count = max(2 * _READERS, 2 * batch_size)
        reading = bounded_map(
            lambda pair: readers.submit(read_object, context, pair[1]), objects.items(), count,
            cost=lambda pair: pair[1].info.size, budget=_BYTES_AHEAD,
        )  # fmt: skip
        for (place, _), future in reading:
            found = future.result()
            if isinstance(found, Row):
                rows[place] = found
                progress(1)
                continue
            batch.append((place, found))
            if is_full():
                flush(ahead=ahead)
        flush(ahead=0)
        settle(most=0)
    return rows, written
