"""Pieces of a task done by several threads, as far as processors are free: parts of one photo, or many photos, each by one."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from emotiw_keras.hardware import processor_threads

S = TypeVar("S")
T = TypeVar("T")


class Crew:
    """Threads that help those who are at work, one for each processor that none of them uses."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at_work = 0
        self._pool: ThreadPoolExecutor | None = None

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """This thread computes until the block ends."""
        with self._lock:
            self._at_work += 1
        try:
            yield
        finally:
            with self._lock:
                self._at_work -= 1

    def each(self, function: Callable[[S], T], items: Sequence[S]) -> list[T]:
        """`function` of each item, in their order; this thread works along, and none waits for a helper that is not free.

        Example:
            >>> Crew().each(abs, [-1, 2])
            [1, 2]
        """
        results: dict[int, T] = {}
        places = itertools.count()  # its `next` is one step, whoever asks

        def work() -> None:
            while (place := next(places)) < len(items):
                results[place] = function(items[place])

        helpers = self._helpers(work, len(items) - 1)
        try:
            work()
        finally:
            for helper in helpers:
                if not helper.cancel():
                    helper.result()
        return [results[place] for place in range(len(items))]

    def _helpers(self, work: Callable[[], None], most: int) -> list[Future[None]]:
        with self._lock:
            free = min(most, processor_threads() - max(1, self._at_work))
            if free <= 0:
                return []
            if self._pool is None:
                self._pool = ThreadPoolExecutor(processor_threads(), thread_name_prefix="emotiw-crew")
            return [self._pool.submit(work) for _ in range(free)]
