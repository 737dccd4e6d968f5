"""The thread that prepares items ahead."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from emotiw_keras.serving.ahead import ahead


def test_items_keep_their_order_and_errors_their_place() -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise ValueError("the sixth")

    seen = []
    with pytest.raises(ValueError, match="the sixth"):
        for item in ahead(items(), 2):
            seen.append(item)
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
