"""A batch of tasks through the model: what it says about each image, at the image's own size."""

import functools
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from torch import Tensor

from vitseg.errors import SampleError
from vitseg.images.decode import one_large, open_image
from vitseg.images.rows import Photo, open_photo, pixel_moments
from vitseg.inference.ledger import Row
from vitseg.inference.objects import Setting, Task, row_of
from vitseg.inference.predict import (
    Moments,
    Painting,
    Prediction,
    forward,
    paint_resized,
    predict_resized,
    stack_planes,
)
from vitseg.inference.tiles import paint_tiled, predict_tiled


@dataclass(frozen=True)
class Answer:
    """What the model says about one image."""

    task: Task
    prediction: Prediction | Painting
    pixels: int
    """Of the image."""
    seconds: float
    """Work on it so far."""


def answers(setting: Setting, batch: Sequence[tuple[int, Task]], batch_size: int) -> Iterator[tuple[int, Answer | Row]]:
    """Yield the answer for each task, by its place; a row where an image turns out to be broken only now.

    Raises:
        DataError: the model's scores are not numbers.
    """
    if setting.job.options.tile:
        for place, task in batch:
            yield place, _slid(setting, task, batch_size)
        return
    if not batch:
        return
    started = time.perf_counter()
    with setting.watch.measure("forward"):
        outputs = ask(setting, stack_planes(task.pixels for _, task in batch if task.pixels is not None))
    share = (time.perf_counter() - started) / len(batch)
    for (place, task), own in zip(batch, outputs, strict=True):
        assert task.size is not None
        started = time.perf_counter()
        with setting.watch.measure("forward"):
            prediction = (predict_resized if setting.bundle.classes else paint_resized)(own, task.size)
        yield place, _answer(task, prediction, share + time.perf_counter() - started)


def _slid(setting: Setting, task: Task, batch_size: int) -> Answer | Row:
    job = setting.job
    assert task.data is not None
    started = time.perf_counter()
    limit, watch = job.options.max_pixels, setting.watch
    try:
        header = open_image(task.data, limit)
        with one_large(header.width * header.height), ExitStack() as stack:
            with watch.measure("decode"):
                photo = stack.enter_context(open_photo(task.data, limit))
            with watch.measure("forward"):
                prediction = _slide(setting, photo, batch_size)
    except SampleError as error:
        return row_of(task.info, "failed", str(error))
    return _answer(task, prediction, time.perf_counter() - started)


def _slide(setting: Setting, photo: Photo, batch_size: int) -> Prediction | Painting:
    bundle = setting.bundle
    network = functools.partial(ask, setting, moments=pixel_moments(photo))
    if not bundle.classes:
        return paint_tiled(network, photo, bundle.image_size, batch_size)
    keep = "confidence" in setting.job.options.also
    return predict_tiled(network, photo, bundle.image_size, batch_size, keep_confidence=keep)


def _answer(task: Task, prediction: Prediction | Painting, seconds: float) -> Answer:
    made = prediction.ids if isinstance(prediction, Prediction) else prediction.colors[..., 0]
    return Answer(task, prediction, made.size, task.seconds + seconds)


def ask(setting: Setting, images: Tensor, moments: Moments = None) -> Tensor:
    """Return what the job's model predicts for images uint8 (B, 3, h, w): see `forward`."""
    return forward(setting.bundle, images, setting.device, flip=setting.job.options.flip, moments=moments)
