"""Whether a network is traced for many faces at once, where what costs a trace or a batch pays for itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

LARGE_BATCH = 32
"""From so many faces on a batch of evaluation or prediction is large."""
_IN_BATCHES: ContextVar[bool] = ContextVar("_IN_BATCHES", default=False)


@contextmanager
def in_batches() -> Iterator[None]:
    """What is traced inside is for batches of `LARGE_BATCH` or more."""
    token = _IN_BATCHES.set(True)
    try:
        yield
    finally:
        _IN_BATCHES.reset(token)


def traced_in_batches() -> bool:
    """Whether what is being traced stands inside `in_batches`."""
    return _IN_BATCHES.get()
