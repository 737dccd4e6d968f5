"""Regrouped convolutions with strides against TensorFlow's direct ones, and where they are used."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from emotiw_keras.models import AlexNet
from emotiw_keras.models.grey_folding import grey_twin
from emotiw_keras.models.kernels import space_to_depth

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="on TensorFlow only")


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


# (height, width), (rows, columns) of the kernel, stride: AlexNet's and VGG-CNN-M's own; kernels that are multiples of the
# stride and that are smaller; images that end with the last output, go on behind it, and end before the widened kernel.
CASES = [
    ((227, 227), (11, 11), 4),
    ((224, 224), (7, 7), 2),
    ((67, 35), (11, 11), 4),
    ((12, 13), (4, 6), 2),
    ((13, 12), (2, 2), 3),
    ((5, 9), (5, 3), 4),
    ((16, 17), (3, 1), 2),
]


@pytest.mark.parametrize(("size", "kernel_size", "stride"), CASES)
@pytest.mark.parametrize("channels", [1, 3])
def test_outputs_and_the_kernels_gradient_are_those_of_the_direct_convolution(
    size: tuple[int, int], kernel_size: tuple[int, int], stride: int, channels: int
) -> None:
    import tensorflow as tf

    x, kernel = tf.constant(values(2, *size, channels)), tf.constant(values(*kernel_size, channels, 5, seed=1))

    def computed(convolve: object) -> tuple[np.ndarray, ...]:
        with tf.GradientTape() as tape:
            tape.watch((x, kernel))
            y = convolve(x, kernel, stride)  # type: ignore[operator]
            loss = tf.reduce_sum(tf.square(y))
        return tuple(np.asarray(t) for t in (y, *tape.gradient(loss, (x, kernel))))

    direct = computed(lambda x, kernel, stride: tf.nn.conv2d(x, kernel, stride, "VALID"))
    for ours, right in zip(computed(space_to_depth.convolve), direct, strict=True):
        np.testing.assert_allclose(ours, right, rtol=1e-5, atol=1e-5 * abs(right).max())


@pytest.mark.parametrize("tiles", [True, False])
def test_grey_faces_train_on_it_in_bfloat16_with_tiles(monkeypatch: pytest.MonkeyPatch, tiles: bool) -> None:
    calls = []
    original = space_to_depth.convolve
    monkeypatch.setattr(space_to_depth, "bfloat16_tiles", lambda: tiles)
    monkeypatch.setattr(space_to_depth, "convolve", lambda *arguments: calls.append(arguments) or original(*arguments))
    x = keras.ops.convert_to_tensor(values(2, 67, 67, 1) * 60)
    for policy in ("mixed_bfloat16", "float32"):
        keras.utils.set_random_seed(1)
        keras.config.set_dtype_policy(policy)  # conftest sets it back
        model = AlexNet(weights=None, input_shape=(67, 67, 3), width=0.05, classes=7)
        twin = grey_twin(model, (100.0, 110.0, 120.0))
        assert twin is not None
        first = twin.layers[1]
        direct = keras.ops.convert_to_numpy(keras.ops.cast(first(x), "float32"))
        assert not calls
        regrouped = keras.ops.convert_to_numpy(keras.ops.cast(first(x, training=True), "float32"))
        assert len(calls) == (policy == "mixed_bfloat16" and tiles)
        np.testing.assert_allclose(regrouped, direct, rtol=2**-6, atol=2**-7 * abs(direct).max())
        calls.clear()
        model.layers[1].trainable = False
        first(x, training=True)
        assert not calls
