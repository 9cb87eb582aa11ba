"""Batches made by a thread while the device works on those before."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def prefetched(items: Iterable[T], ahead: int) -> Iterator[T]:
    """The items in order, each made by one other thread, up to `ahead` before they are asked for.

    What is raised in making an item is raised when its turn comes. If the iterator is closed, it waits for what is
    being made.
    """
    source, end = iter(items), object()
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as thread:
        waiting = deque(thread.submit(next, source, end) for _ in range(ahead))
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(thread.submit(next, source, end))
                yield item  # type: ignore[misc]  # it isn't the end
        finally:
            thread.shutdown(cancel_futures=True)
