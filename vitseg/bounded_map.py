"""Work on many things at a time, but not on all at once."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def bounded_map(submit: Callable[[T], Future[R]], items: Iterable[T], ahead: int) -> Iterator[tuple[T, Future[R]]]:
    """Yield each item with its future, in order, while up to `ahead` of them are under way.

    The `map` of an executor would submit all items first: a million names would be a million futures.
    """
    waiting: deque[tuple[T, Future[R]]] = deque()
    try:
        for item in items:
            waiting.append((item, submit(item)))
            if len(waiting) == ahead:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        for _, future in waiting:
            future.cancel()
