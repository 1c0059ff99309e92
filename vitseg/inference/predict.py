"""A batch of tasks through the model: a prediction for each image, at the image's own size."""

import functools
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from vitseg.errors import SampleError
from vitseg.images.decode import one_large, open_image
from vitseg.images.rows import Photo, open_photo, pixel_moments
from vitseg.inference.context import ChunkContext
from vitseg.inference.gpu_stream import GpuStream
from vitseg.inference.ledger import Row, row_without_mask
from vitseg.inference.model import forward, stack_planes
from vitseg.inference.read import Task
from vitseg.inference.tiles import predict_colors_tiled, predict_tiled
from vitseg.inference.upsample import ImagePrediction, MaskPrediction, upsample_colors, upsample_scores


@dataclass(frozen=True)
class Prediction:
    """What the model makes of one image."""

    task: Task
    output: MaskPrediction | ImagePrediction
    seconds: float
    """Work on the image so far."""

    @property
    def pixels(self) -> int:
        """Number of pixels of the image."""
        ids = self.output.ids if isinstance(self.output, MaskPrediction) else self.output.colors[..., 0]
        return ids.size


def predict_batch(
    context: ChunkContext, batch: Sequence[tuple[int, Task]], batch_size: int
) -> Iterator[tuple[int, Prediction | Row]]:
    """Yield the prediction for each task, by its place; a row where an image turns out to be broken only now."""
    if context.job.options.tile:
        for place, task in batch:
            yield place, _predict_task_tiled(context, task, batch_size)
        return
    if not batch:
        return
    started = time.perf_counter()
    with context.stopwatch.measure("forward"):
        images = stack_planes(task.pixels for _, task in batch if task.pixels is not None)
        outputs = forward(context.bundle, images, context.device, context.precision, flip=context.job.options.flip)
    share = (time.perf_counter() - started) / len(batch)
    upsample = upsample_scores if context.bundle.classes else upsample_colors
    for (place, task), output in zip(batch, outputs, strict=True):
        assert task.size is not None
        started = time.perf_counter()
        with context.stopwatch.measure("forward"):
            own = upsample(output, task.size)
        yield place, Prediction(task, own, task.seconds + share + time.perf_counter() - started)


def launch_batch(
    context: ChunkContext, batch: Sequence[tuple[int, Task]], stream: GpuStream
) -> Iterator[tuple[int, Prediction | Row]]:
    """Do what `predict_batch` does on a GPU: begin now, and wait for it where the first prediction is asked for."""
    if not batch:
        return iter(())
    started = time.perf_counter()
    batch = sorted(batch, key=lambda pair: pair[1].size or ())  # images of one size are scaled together
    with context.stopwatch.measure("forward"):
        images = [task.pixels for _, task in batch if task.pixels is not None]
        collect = stream.launch(images, [task.size for _, task in batch if task.size])
    spent = time.perf_counter() - started

    def collected() -> Iterator[tuple[int, Prediction | Row]]:
        started = time.perf_counter()
        with context.stopwatch.measure("forward"):
            outputs = collect()
        share = (spent + time.perf_counter() - started) / len(batch)
        for (place, task), output in zip(batch, outputs, strict=True):
            yield place, Prediction(task, output, task.seconds + share)

    return collected()


def _predict_task_tiled(context: ChunkContext, task: Task, batch_size: int) -> Prediction | Row:
    limit = context.job.options.max_pixels
    assert task.data is not None
    started = time.perf_counter()
    try:
        header = open_image(task.data, limit)
        with one_large(header.width * header.height), ExitStack() as stack:
            with context.stopwatch.measure("decode"):
                photo = stack.enter_context(open_photo(task.data, limit))
            with context.stopwatch.measure("forward"):
                output = _tile(context, photo, batch_size)
    except SampleError as error:
        return row_without_mask(task.info, "failed", str(error))
    return Prediction(task, output, task.seconds + time.perf_counter() - started)


def _tile(context: ChunkContext, photo: Photo, batch_size: int) -> MaskPrediction | ImagePrediction:
    bundle, options = context.bundle, context.job.options
    moments = pixel_moments(photo)
    network = functools.partial(
        forward, bundle, device=context.device, precision=context.precision, flip=options.flip, moments=moments
    )
    if not bundle.classes:
        return predict_colors_tiled(network, photo, bundle.image_size, batch_size, context.device)
    keep = "confidence" in options.also
    return predict_tiled(network, photo, bundle.image_size, batch_size, context.device, keep_confidence=keep)
