"""Works in threads ahead of a consumer, with a bounded number of results in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

S = TypeVar("S")
T = TypeVar("T")


def map_ahead(function: Callable[[S], T], items: Iterable[S], threads: int) -> Iterator[T]:
    """Yields `function(item)` in the order of the items.

    Args:
        function: called in a thread.
        items: read in the caller's thread.
        threads: calls at a time, and results that may wait for the consumer.

    Raises:
        Exception: as the function raises it, when its result is due.
    """
    pending: deque[Future[T]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def read_ahead(items: Iterable[T], ahead: int) -> Generator[T, None, None]:
    """Yields the items of an iterable that a thread reads, up to `ahead` items before they are wanted.

    Closing the generator waits for the item that is being read.

    Raises:
        Exception: as reading raises it, after the items before it.
    """
    source, end = iter(items), object()
    with ThreadPoolExecutor(1) as pool:
        pending: deque[Future[Any]] = deque(pool.submit(next, source, end) for _ in range(ahead))
        try:
            while (item := pending.popleft().result()) is not end:
                pending.append(pool.submit(next, source, end))
                yield item
        finally:
            for future in pending:
                future.cancel()
