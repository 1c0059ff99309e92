"""What to do with a CUDA graph whose recording failed, and what to tell of it."""

import torch

_unfinished: list[torch.cuda.CUDAGraph] = []
"""Graphs whose recording did not end: torch's allocator refers to these until the process ends."""


def give_up(graph: torch.cuda.CUDAGraph) -> None:
    """Free the memory of a graph whose recording failed, which would else stay reserved; keep one that is still recorded."""
    try:
        graph.pool()  # refused as long as the recording has not ended
    except RuntimeError:
        _unfinished.append(graph)
    else:
        graph.reset()


def first_cause(error: RuntimeError) -> str:
    """Return the first line of why a recording failed: where ending it fails too, that error comes last."""
    cause = error.__context__ if isinstance(error.__context__, RuntimeError) else error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]
