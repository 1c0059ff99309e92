"""Work on many things at a time, but not on all at once."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def bounded_map(
    submit: Callable[[T], Future[R]], items: Iterable[T], ahead: int,
    cost: Callable[[T], float] = lambda item: 0, budget: float = math.inf,
) -> Iterator[tuple[T, Future[R]]]:  # fmt: skip
    """Yield each item with its future, in order, while up to `ahead` of them, that cost up to `budget`, are under way.

    An item that costs more than the budget is alone. The `map` of an executor would submit all items first: a million
    names would be a million futures.
    """
    waiting: deque[tuple[T, Future[R]]] = deque()
    spent = 0.0
    try:
        for item in items:
            while waiting and (len(waiting) == ahead or spent + cost(item) > budget):
                spent -= cost(waiting[0][0])
                yield waiting.popleft()
            waiting.append((item, submit(item)))
            spent += cost(item)
        while waiting:
            yield waiting.popleft()
    finally:
        for _, future in waiting:
            future.cancel()
