"""The moving average of weights, against the same sums by hand, and that a stage scores and keeps it."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from emotiw_keras.models import build
from emotiw_keras.training.averages import Averages


def test_follows_the_weights_with_a_decay_that_grows() -> None:
    layer = keras.layers.Dense(2)
    model = keras.Sequential([keras.Input((3,)), layer])
    averages = Averages(model, 0.5)
    expected = layer.kernel.numpy().astype(np.float64)
    for step in range(12):
        layer.kernel.assign(np.full((3, 2), step, np.float32))
        averages.update(tf.constant(step, tf.int64), tf.constant(step + 1, tf.int64))
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    np.testing.assert_allclose(averages.variables[0].numpy(), expected, rtol=1e-5)


def test_a_step_that_makes_no_update_leaves_them() -> None:
    layer = keras.layers.Dense(2)
    averages = Averages(keras.Sequential([keras.Input((3,)), layer]), 0.5)
    before = averages.variables[0].numpy()
    layer.kernel.assign(before + 1)
    averages.update(tf.constant(5, tf.int64), tf.constant(5, tf.int64))
    np.testing.assert_array_equal(averages.variables[0].numpy(), before)


def test_in_place_lends_the_averages_and_gives_the_weights_back() -> None:
    model = build("face_vgg", weights=None, classes=3, input_shape=(16, 16, 1), width=0.1)
    averages = Averages(model, 0.9)
    assert len(averages.variables) == len([v for v in model.variables if "seed" not in v.path])
    before = [value.copy() for value in model.get_weights()]
    for average in averages.variables:
        average.assign(np.full(average.shape, 2.0, np.float32))
    with averages.in_place():
        assert all((value == 2).all() for value in model.get_weights())
    for value, own in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, own)
