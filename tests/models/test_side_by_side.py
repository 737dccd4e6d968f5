"""Gradients of images side by side against TensorFlow's of one after the other, and where they are used."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from emotiw_keras.models import layers
from emotiw_keras.models.kernels import side_by_side
from emotiw_keras.models.layers import Conv2D, GroupedConv2D

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="on TensorFlow only")


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


# Two, four and nine images in a row, batches that fill the rows, that leave some over and that fill none; one graph for all.
@pytest.mark.parametrize(("height", "width", "batches"), [(13, 13, (4, 5, 1)), (6, 6, (8, 7, 3)), (5, 2, (9, 20))])
def test_outputs_and_both_gradients_are_those_of_the_direct_convolution(height: int, width: int, batches: tuple) -> None:
    import tensorflow as tf

    kernel = tf.constant(values(3, 3, 4, 5, seed=1))

    def computed(convolve: object, x: tf.Tensor) -> tuple[tf.Tensor, ...]:
        with tf.GradientTape() as tape:
            tape.watch((x, kernel))
            y = convolve(x, kernel)  # type: ignore[operator]
            loss = tf.reduce_sum(tf.square(y))
        return y, *tape.gradient(loss, (x, kernel))

    graph = tf.function(lambda x: computed(side_by_side.convolve, x), input_signature=[tf.TensorSpec((None, height, width, 4))])
    for batch in batches:
        x = tf.constant(values(batch, height, width, 4, seed=batch))
        direct = computed(lambda x, kernel: tf.nn.conv2d(x, kernel, 1, "SAME"), x)
        for ours, right in zip(graph(x), direct, strict=True):
            np.testing.assert_allclose(ours, right, rtol=1e-5, atol=1e-5 * abs(np.asarray(right)).max())


@pytest.mark.parametrize("tiles", [True, False])
def test_layers_train_on_it_in_bfloat16_with_tiles(monkeypatch: pytest.MonkeyPatch, tiles: bool) -> None:
    calls = []
    original = side_by_side.convolve
    for module in (side_by_side, layers.winograd):
        monkeypatch.setattr(module, "bfloat16_tiles", lambda: tiles)
    monkeypatch.setattr(side_by_side, "convolve", lambda *arguments: calls.append(arguments) or original(*arguments))

    def count(layer: keras.layers.Layer, side: int = 13, training: bool = True) -> int:
        calls.clear()
        layer(keras.ops.convert_to_tensor(values(2, side, side, 8)), training=training)
        return len(calls)

    same = {"padding": "same", "dtype": "mixed_bfloat16"}
    assert count(Conv2D(4, 3, **same)) == tiles
    assert count(GroupedConv2D(4, 3, groups=2, **same)) == 2 * tiles
    for layer in (
        Conv2D(4, 5, **same),
        Conv2D(4, 3, strides=2, **same),
        Conv2D(4, 3, padding="same"),
        Conv2D(4, 3, dtype="mixed_bfloat16"),
        Conv2D(4, 3, trainable=False, **same),
    ):
        assert count(layer) == 0
    assert count(Conv2D(4, 3, **same), side=14) == count(Conv2D(4, 3, **same), training=False) == 0
