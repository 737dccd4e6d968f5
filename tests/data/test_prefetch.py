"""The thread that prepares items ahead."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from emotiw_keras.data.prefetch import ahead, map_ahead


def test_items_keep_their_order_and_errors_their_place() -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise ValueError("the sixth")

    seen = []
    with pytest.raises(ValueError, match="the sixth"):
        seen.extend(ahead(items(), 2))
    assert seen == [0, 1, 2, 3, 4]
    assert list(ahead([], 1)) == []


def test_no_more_wait_than_agreed_and_the_thread_ends_with_the_consumer() -> None:
    made = 0

    def items() -> Iterator[int]:
        nonlocal made
        while True:
            made += 1
            yield made

    stream = ahead(items(), 3)
    assert next(stream) == 1
    deadline = time.monotonic() + 5
    while made < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)
    assert made == 5  # one taken, three waiting, one in hand
    stream.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name == "emotiw-ahead"]


def test_map_ahead_keeps_the_order_and_works_at_once() -> None:
    both = threading.Barrier(2, timeout=10)  # passes only if two threads are inside together

    def square(number: int) -> int:
        both.wait()
        return number * number

    assert list(map_ahead(square, range(8), 2)) == [n * n for n in range(8)]


def test_map_ahead_reads_no_further_than_its_workers_and_stops_with_its_consumer() -> None:
    asked: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            asked.append(number)
            yield number

    results = map_ahead(lambda n: n, items(), 3)
    assert [next(results), next(results)] == [0, 1]
    assert max(asked) <= 5
    results.close()
    assert max(asked) <= 5


def test_map_ahead_gives_what_came_before_an_error_of_the_items() -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise OSError("gone")

    doubled = map_ahead(lambda item: 2 * item, items(), 4)
    assert [next(doubled) for _ in range(3)] == [0, 2, 4]
    with pytest.raises(OSError, match="gone"):
        next(doubled)


def test_map_ahead_raises_an_error_in_its_place() -> None:
    def odd(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number

    results = map_ahead(odd, range(6), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)
