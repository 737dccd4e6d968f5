"""What an epoch draws: the order of images, their crops and their changes."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from emotiw_keras.training.epoch_plan import StageCrops
from emotiw_keras.training.feeds import epoch_batches
from emotiw_keras.training.own_data import Arrays, Batches
from emotiw_keras.training.stage import Stage


def crops(images: int, **settings: object) -> StageCrops:
    return StageCrops(Stage("s", train=("a:train",), **settings), images, 8, (0, 1))  # type: ignore[arg-type]


def test_all_takes_each_image_once_and_another_order_each_epoch() -> None:
    labels = np.zeros(50, np.int32)
    one, two = (crops(50).order(epoch, labels) for epoch in (0, 1))
    assert sorted(one) == sorted(two) == list(range(50)) and not np.array_equal(one, two)


def test_balanced_draws_every_class_as_often() -> None:
    labels = np.repeat([0, 2, 5], [9000, 900, 100])
    order = crops(10_000, sampling="balanced").order(3, labels)
    assert len(order) == 10_000
    shares = np.bincount(labels[order], minlength=6) / 10_000
    np.testing.assert_allclose(shares, [1 / 3, 0, 1 / 3, 0, 0, 1 / 3], atol=0.02)
    one_hot = np.eye(6, dtype=np.float32)[labels]
    np.testing.assert_array_equal(crops(10_000, sampling="balanced").order(3, one_hot), order)


def test_changes_come_behind_the_crop() -> None:
    plain, changed = crops(20), crops(20, rotate=10.0)
    assert plain.draws_of_epoch(2).dtype == np.int32
    draws = changed.draws_of_epoch(2)
    np.testing.assert_array_equal(draws[:, :3], plain.draws_of_epoch(2))
    assert draws.dtype == np.float32 and draws.shape[1] > 3
    assert not np.array_equal(draws[:, 3:], changed.draws_of_epoch(3)[:, 3:])


@pytest.mark.parametrize("batches", [False, True])
def test_crops_and_changes_are_drawn_apart(batches: bool) -> None:
    images, labels = np.zeros((2_000, 8, 8, 1), np.uint8), np.zeros(2_000, np.int32)
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).batch(500)
    source = Batches("data", dataset) if batches else Arrays("data", images, labels)
    stage = Stage(name="all", train=("data:train",), batch_size=500, rotate=10.0, zoom=0.2, shift=0.1)
    fed = epoch_batches(source, stage, StageCrops(stage, len(images), 6, (0, 1)), 0, 0)
    columns = np.concatenate([drawn for _, drawn, _ in fed]).T
    together = np.corrcoef(columns[columns.std(axis=1) > 0])
    assert len(together) >= 7
    assert np.abs(together - np.eye(len(together))).max() < 0.1  # 4.5 deviations of what chance leaves
