"""A second thread that prepares a few items ahead of the one who uses them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

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
