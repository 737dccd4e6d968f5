"""What an epoch draws: the order of images, their crops and their changes."""

from __future__ import annotations

import numpy as np

from emotiw_keras.training.epoch_plan import StageCrops
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
