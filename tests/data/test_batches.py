"""Batches of bytes: what comes out, and what runs behind it."""

from __future__ import annotations

import time

import numpy as np
import pytest
import tensorflow as tf

from emotiw_keras.data.batches import AHEAD, batches
from emotiw_keras.errors import DataError


class Numbered:
    """A source whose images hold their position."""

    shape = (2, 3, 1)
    dtype = np.dtype(np.uint8)
    labels = np.arange(10, dtype=np.int32) % 7

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, positions: np.ndarray) -> np.ndarray:
        return np.broadcast_to(positions.astype(np.uint8)[:, None, None, None], (len(positions), *self.shape))


def test_batches_follow_the_order_and_the_last_may_be_smaller() -> None:
    order = np.random.default_rng(0).permutation(10)
    draws = np.arange(30, dtype=np.int32).reshape(10, 3)
    found = list(batches(Numbered(), order, draws, 4, start=1))
    assert [len(images) for images, _, _ in found] == [4, 2]
    for number, (images, drawn, labels) in enumerate(found, 1):
        positions = order[4 * number : 4 * number + 4]
        assert images.shape[1:] == (2, 3, 1)
        assert np.array_equal(images.numpy()[:, 0, 0, 0], positions)
        assert np.array_equal(drawn, draws[positions])
        assert np.array_equal(labels, Numbered.labels[positions])


def test_without_draws_there_are_zeros() -> None:
    ((_, drawn, _),) = batches(Numbered(), np.arange(5), None, 8)
    assert drawn.dtype == tf.int32
    assert np.array_equal(drawn, np.zeros((5, 3)))


def test_what_a_source_raises_comes_as_it_is() -> None:
    class Broken(Numbered):
        def gather(self, positions: np.ndarray) -> np.ndarray:
            if 5 in positions:
                raise DataError("picture 5 is gone")
            return super().gather(positions)

    made = batches(Broken(), np.arange(10), None, 4)
    assert next(made)[0].shape == (4, 2, 3, 1)
    with pytest.raises(DataError, match="^picture 5 is gone$"):
        next(made)


def test_a_few_batches_are_made_ahead_and_no_more() -> None:
    class Counted(Numbered):
        labels = np.zeros(100, np.int32)
        made = 0

        def gather(self, positions: np.ndarray) -> np.ndarray:
            self.made += 1
            return super().gather(positions)

    source, most = Counted(), 1 + AHEAD + 1  # taken, waiting, in hand
    taken = batches(source, np.arange(100), None, 4)
    next(taken)
    deadline = time.monotonic() + 5
    while source.made < most and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)
    assert source.made == most
