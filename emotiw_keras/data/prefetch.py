"""Threads that prepare a few items ahead of the one who uses them."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")
_WAIT = 0.2  # seconds between looks at whether the consumer has gone


class _End:
    """Stands behind the last item; holds the error that ended the items, if any."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def ahead(items: Iterable[T], size: int) -> Iterator[T]:
    """The same items in the same order, made in another thread, at most `size` of them waiting.

    An error rises where its item would have come. When the consumer stops early, the thread ends after the item at hand.
    """
    waiting: queue.Queue[T | _End] = queue.Queue(size)
    gone = threading.Event()

    def put(item: T | _End) -> bool:
        while not gone.is_set():
            try:
                waiting.put(item, timeout=_WAIT)
            except queue.Full:
                continue
            return True
        return False

    def produce() -> None:
        error: BaseException | None = None
        try:
            for item in items:
                if not put(item):
                    return
        except BaseException as raised:  # noqa: BLE001 - rises again in the consumer's thread
            error = raised
        put(_End(error))

    producer = threading.Thread(target=produce, name="emotiw-ahead", daemon=True)
    producer.start()
    try:
        while not isinstance(item := waiting.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        gone.set()
        producer.join()


def map_ahead(function: Callable[[S], T], items: Iterable[S], workers: int) -> Iterator[T]:
    """`function` of each item in their order, by a pool of threads, at most `workers` results waiting.

    An error rises where its result would have come, and so does one of the items' own. When the consumer stops early, what has
    not begun is left.
    """
    waiting: deque[Future[T]] = deque()
    failed: list[Exception] = []

    def until_error() -> Iterator[S]:
        try:
            yield from items
        except Exception as error:  # noqa: BLE001 - rises behind the results of the items before it
            failed.append(error)

    with ThreadPoolExecutor(workers, thread_name_prefix="emotiw-map") as pool:
        try:
            for item in until_error():
                waiting.append(pool.submit(function, item))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
            if failed:
                raise failed[0]
        finally:
            for future in waiting:
                future.cancel()
