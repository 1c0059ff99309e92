"""Forward and backward passes as one CUDA graph: kernels are recorded once, and then launched all together.

A GPU finishes small kernels faster than Python launches them. What is replayed are the same kernels on the same memory:
new inputs are copied to where the recorded ones were, and gradients appear where they appeared
(https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs). Each replay reads seed and offset of the device's random
numbers as they are then, so that it draws what the function itself would draw.
"""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from vitseg import dist
from vitseg.cuda_recording import first_cause, give_up
from vitseg.training.rank_reports import emit

Pass = Callable[..., tuple[Tensor, ...]]
"""Computes gradients from tensors, without waiting for the device, and returns tensors that have none."""


class GraphedPass:
    """Does what a pass does: once as it is, which prepares libraries and memory, and from the second time on by a graph.

    Inputs have the same shapes each time. Gradients and what is returned are overwritten by the next call. Where recording
    fails, all goes on without a graph, in the same call.
    """

    def __init__(self, function: Pass, parameters: Sequence[nn.Parameter]) -> None:
        self._function, self._parameters = function, parameters
        self._calls = 0
        self._replay: Callable[[], None] | None = None

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Compute gradients in place of earlier ones; return what the function returns."""
        self._calls += 1
        if self._calls == 1:
            return run_beside(lambda: self._function(*inputs))
        if self._calls == 2:
            self._record(inputs)
        if self._replay is None:
            return self._function(*inputs)
        for place, tensor in zip(self._inputs, inputs, strict=True):
            place.copy_(tensor)
        self._replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._outputs

    def _record(self, inputs: Sequence[Tensor]) -> None:
        start = time.perf_counter()
        self._inputs = [tensor.clone() for tensor in inputs]
        try:
            self._outputs, replay = record(lambda: self._function(*self._inputs))
        except RuntimeError as error:  # torch's errors of the device and of its memory are of this type
            for parameter in self._parameters:
                parameter.grad = None
            emit("note", text=f"no CUDA graph of a step, each kernel is launched on its own: {first_cause(error)}")
            return
        self._gradients = [parameter.grad for parameter in self._parameters]
        self._replay = replay
        if dist.place()[0] == 0:
            seconds = time.perf_counter() - start
            emit("note", text=f"a step is one CUDA graph from now on, which took {seconds:.1f} s to record")


def run_beside(function: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Run a pass on a stream of its own: what it prepares on the default stream could not be recorded afterwards."""
    before, beside = torch.cuda.current_stream(), torch.cuda.Stream()
    beside.wait_stream(before)
    with torch.cuda.stream(beside):
        outputs = function()
    before.wait_stream(beside)
    return outputs


def record(function: Callable[[], tuple[Tensor, ...]]) -> tuple[tuple[Tensor, ...], Callable[[], None]]:
    """Record the kernels of a pass, without running them; return its outputs, empty until then, and what runs the kernels."""
    graph = torch.cuda.CUDAGraph()
    try:
        with (
            torch.cuda.stream(
                torch.cuda.current_stream()
            ),  # back to it, also where a recording fails and leaves its own
            torch.cuda.graph(graph, capture_error_mode="thread_local"),  # other threads decode, and may allocate
        ):
            outputs = function()
    except RuntimeError:
        give_up(graph)
        raise
    return outputs, graph.replay
