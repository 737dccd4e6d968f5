"""Batches of bytes: what comes out, and what runs behind it."""

from __future__ import annotations

import time

import numpy as np
import pytest
import tensorflow as tf

from emotiw_keras.data import load_faces
from emotiw_keras.data.batches import WAITING, batches
from emotiw_keras.errors import DataError, UsageError


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
                raise DataError("image 5 is gone")
            return super().gather(positions)

    made = batches(Broken(), np.arange(10), None, 4)
    assert next(made)[0].shape == (4, 2, 3, 1)
    with pytest.raises(DataError, match="^image 5 is gone$"):
        next(made)


def test_a_few_batches_are_made_ahead_and_no_more() -> None:
    class Counted(Numbered):
        labels = np.zeros(100, np.int32)
        made = 0

        def gather(self, positions: np.ndarray) -> np.ndarray:
            self.made += 1
            return super().gather(positions)

    source, most = Counted(), 1 + WAITING  # taken, waiting
    taken = batches(source, np.arange(100), None, 4)
    next(taken)
    deadline = time.monotonic() + 5
    while source.made < most and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)
    assert source.made == most


def test_of_one_source_epoch_after_epoch_is_whole_also_where_one_was_left_early() -> None:
    class Asked(Numbered):
        def gather(self, positions: np.ndarray) -> np.ndarray:
            assert len(positions), "no batch is made that an epoch does not have"
            return super().gather(positions)

    source = Asked()
    for order in (np.arange(10), np.arange(10)[::-1]):
        next(batches(source, order, None, 4))  # left after one batch
        within = batches(source, order, None, 5)  # under way while another is
        next(within)
        found = [images.numpy()[:, 0, 0, 0] for images, _, _ in batches(source, order, None, 4)]
        assert np.array_equal(np.concatenate(found), order) and [len(part) for part in found] == [4, 4, 2]
        assert np.array_equal(next(within)[0].numpy()[:, 0, 0, 0], order[5:])


def test_a_dataset_of_a_split_reads_like_any_other() -> None:
    faces = load_faces("generated:small", limit=14)
    pixels = faces.pixels.gather(faces.indices("train"))
    plain = faces.dataset("train", batch_size=4)
    assert isinstance(plain, tf.data.Dataset) and plain.element_spec[0].dtype == tf.uint8 and plain.cardinality() == 4
    parts = list(plain)
    assert [len(labels) for _, labels in parts] == [4, 4, 4, 2] and parts[0][1].dtype == tf.int32
    np.testing.assert_array_equal(np.concatenate([images for images, _ in parts]), pixels)
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in parts]), faces.label[faces.indices("train")])
    (some,) = plain.skip(3).map(lambda images, labels: (tf.cast(images, tf.float32), labels)).take(1)
    np.testing.assert_array_equal(some[0], pixels[12:].astype(np.float32))
    with pytest.raises(UsageError, match="index < count"):
        faces.dataset("train", batch_size=4, shard=(2, 2))
    for wrong in ({"shard": 3}, {"shard": (0, 1, 2)}, {"shard": (0, 1.5)}, {"seed": 1.5}, {"seed": -1}):
        with pytest.raises(UsageError, match=f"{next(iter(wrong))} = .*: expected"):
            faces.dataset("train", batch_size=4, shuffle=True, **wrong)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no split 'dev'"):
        faces.dataset("dev", batch_size=4)


def test_a_shuffled_dataset_has_a_new_order_each_time_and_shards_share_its_batches() -> None:
    faces = load_faces("generated:small", limit=21)
    pixels = faces.pixels.gather(faces.indices("train"))

    def epochs(**settings: object) -> list[list[np.ndarray]]:
        dataset = faces.dataset("train", batch_size=5, shuffle=True, seed=3, **settings)  # type: ignore[arg-type]
        return [[images.numpy() for images, _ in dataset] for _ in range(2)]

    first, second = epochs()
    assert sorted(image.tobytes() for batch in first for image in batch) == sorted(image.tobytes() for image in pixels)
    assert not np.array_equal(first[0], second[0]) and not np.array_equal(first[0], pixels[:5])
    again = epochs()
    shards = [epochs(shard=(index, 2)) for index in range(2)]
    for epoch, whole in enumerate((first, second)):
        for number, batch in enumerate(whole):
            np.testing.assert_array_equal(again[epoch][number], batch)
            for index in range(2):
                np.testing.assert_array_equal(shards[index][epoch][number], batch[index::2])
