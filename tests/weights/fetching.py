"""A fetch whose lines are kept, and what must be left of one that failed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from emotiw_keras.errors import ModelError
from emotiw_keras.weights import cache as stored
from emotiw_keras.weights.fetch import Patience, fetch
from emotiw_keras.weights.manifest import Entry
from tests.weights.conftest import DATA, PATIENCE, Handler, Told

HALF = len(DATA) // 2


def get(entry: Entry, told: Told, patience: Patience = PATIENCE) -> Path:
    return fetch(entry, say=told, patience=patience)


def refused(entry: Entry, told: Told, patience: Patience = PATIENCE) -> str:
    """The error of a fetch: one line that says what to do, and no file under the final name."""
    with pytest.raises(ModelError) as caught:
        get(entry, told, patience)
    message = str(caught.value)
    told(f"emotiw: error: {message}")
    assert len(message.splitlines()) == 1
    assert (
        message.startswith(f"could not fetch {entry.key}: ")
        and f", or get {entry.url} in another way and put it at " in message
    )
    assert not stored.file_path(entry).exists() and not stored.recorded(stored.file_path(entry))
    return message


def left(entry: Entry) -> set[str]:
    return {path.name for path in stored.file_path(entry).parent.iterdir()}


def cut_at(count: int, then: Callable[[Handler], None] | None = None) -> Callable[[Handler], None]:
    """The first request is cut after `count` bytes; later ones are answered by `then`, or well."""
    state = {"first": True}

    def answer(handler: Handler) -> None:
        if state.pop("first", False):
            handler.give(DATA[:count], length=len(DATA), ETag='"1"')
        elif then is None:
            handler.give_from(DATA)
        else:
            then(handler)

    return answer
