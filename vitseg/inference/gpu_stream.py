"""Batches through the model on a GPU: each is launched without waiting for it, and collected while the next one computes.

    arrays → pinned memory → GPU: scores → class ids at the images' own sizes → pinned memory → arrays

Python launches few operations a batch: all of fixed size are one CUDA graph, and images of one size are scaled together.
Each operation gives up the interpreter's lock and waits to get it back from the threads that read and write.

Shapes: B images a batch, n of them in use, K classes, (h, w) the model's input, (H, W) an image.
"""

import functools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vitseg.cuda_recording import first_cause, give_up
from vitseg.inference.model import forward
from vitseg.inference.upsample import (
    ImagePrediction,
    MaskPrediction,
    finite_mean,
    resize_colors,
    unit_bytes,
    upsampled_rows,
)
from vitseg.model.bundle import Bundle
from vitseg.precision import Precision

Predictions = list[MaskPrediction | ImagePrediction]
log = logging.getLogger(__name__)

_SCORES_AT_ONCE = 2**27  # scaled at a time, of all classes and images: 512 MiB
_capturing = threading.Lock()  # CUDA can capture one graph at a time


class GpuStream:
    """A stream of batches of one model, used by one thread at a time.

    The model always computes B images, in buffers of its own, so that a mask doesn't depend on how many are with it. On
    the processor it computes the same, at once: so it can be tested there.
    """

    def __init__(
        self, bundle: Bundle, device: torch.device, batch_size: int, *, precision: Precision, flip: bool
    ) -> None:
        self._bundle, self._device, self._precision, self._flip = bundle, device, precision, flip
        self._module = torch.get_device_module(device)
        self._stream = self._module.Stream(device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._found: tuple[Tensor, Tensor, Tensor] | None = None
        with self._module.stream(self._stream):
            self._images = torch.zeros(batch_size, *bundle.image_size, 3, dtype=torch.uint8, device=device)
            with torch.inference_mode():
                self._predict()  # sets up what a graph can't hold
                if device.type == "cuda":
                    self._capture()

    def launch(self, images: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]]) -> Callable[[], Predictions]:
        """Begin to predict n images, uint8 (h, w, 3), whose own sizes are (H, W), neighbors of one size if possible.

        Returns what waits for them and returns their predictions; it raises DataError where the output is not numbers.
        """
        staged = self._staging(self._images[: len(images)])
        np.stack(images, out=staged.numpy())
        with torch.inference_mode(), self._module.stream(self._stream):
            self._images[: len(images)].copy_(staged, non_blocking=True)
            if self._graph is not None:
                self._graph.replay()
            else:
                self._found = self._predict()
            assert self._found is not None
            output, small, totals = (found[: len(images)] for found in self._found)
            copies = [self._copy_back(small), self._copy_back(totals)]
            start = 0
            for size, run in groupby(sizes if self._bundle.classes else ()):
                stop = start + len(list(run))
                copies.append(self._copy_back(upsample_batch(output[start:stop], size)))
                start = stop
            done = self._module.Event()
            done.record(self._stream)

        def collect() -> Predictions:
            done.synchronize()
            small, totals, *groups = (copy.numpy() for copy in copies)
            pixels = self._images[0, ..., 0].numel()
            means = [finite_mean(float(total), pixels) for total in totals]
            if not self._bundle.classes:
                return [resize_colors(colors, size) for colors, size in zip(small, sizes, strict=True)]
            ids = (own for group in groups for own in group)
            return [MaskPrediction(*each) for each in zip(ids, means, small, strict=True)]

        return collect

    def _predict(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores (B, K, h, w), confidence uint8 (B, h, w) and its sums (B,) of the images in the buffer.

        Without classes: colors (B, 3, h, w), the same as uint8 (B, h, w, 3), and sums that are not finite if they aren't.
        """
        images = self._images.permute(0, 3, 1, 2)
        output = forward(self._bundle, images, self._device, self._precision, flip=self._flip)
        if not self._bundle.classes:
            return output, unit_bytes(output).permute(0, 2, 3, 1), output.sum((1, 2, 3), dtype=torch.float64)
        certain = output.softmax(1).amax(1)
        return output, unit_bytes(certain), certain.sum((1, 2), dtype=torch.float64)

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may allocate meanwhile; what they launch is on streams of their own.
            with _capturing, torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._found = self._predict()
            self._graph = graph
        except RuntimeError as error:  # torch's errors of the device and of its memory are of this type
            give_up(graph)
            log.warning("no CUDA graph of the model, each kernel is launched on its own: %s", first_cause(error))

    def _staging(self, like: Tensor) -> Tensor:
        """Return memory that a GPU copies by itself; torch keeps it for another batch once nobody uses it."""
        return torch.empty(like.shape, dtype=like.dtype, pin_memory=self._device.type == "cuda")

    def _copy_back(self, found: Tensor) -> Tensor:
        return self._staging(found).copy_(found, non_blocking=True)


def upsample_batch(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the best class of each pixel, uint8 (n, H, W), of scores (n, K, h, w), where they are, in bounded memory."""
    ids = torch.empty(len(scores), *size, dtype=torch.uint8, device=scores.device)
    rows = max(1, _SCORES_AT_ONCE // (scores.shape[1] * size[1]))
    if some := rows // size[0]:
        for first in range(0, len(scores), some):
            part = slice(first, first + some)
            ids[part] = F.interpolate(scores[part], size=size, mode="bilinear").argmax(1)
        return ids
    for own, each in zip(ids, scores, strict=True):
        for top in range(0, size[0], rows):
            part = slice(top, min(top + rows, size[0]))
            own[part] = torch.stack(list(upsampled_rows(each, size, part))).argmax(0)
    return ids


@contextmanager
def lend_stream(
    bundle: Bundle, device: torch.device, batch_size: int, *, precision: Precision, flip: bool
) -> Iterator[GpuStream]:
    """Lend a stream to a thread; the next one gets it with its graph."""
    idle = _idle_streams(bundle, device, batch_size, precision, flip)
    try:
        stream = idle.pop()
    except IndexError:
        stream = GpuStream(bundle, device, batch_size, precision=precision, flip=flip)
    try:
        yield stream
    finally:
        idle.append(stream)


@functools.lru_cache(maxsize=1)  # those of an earlier model go with their memory
def _idle_streams(
    bundle: Bundle, device: torch.device, batch_size: int, precision: Precision, flip: bool
) -> list[GpuStream]:
    return []
