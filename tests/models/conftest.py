"""Fixtures for the networks: the float policy of a test, and gradients on whichever backend runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import keras
import numpy as np
import pytest

BACKEND = keras.backend.backend()


@pytest.fixture(autouse=True)
def float32_and_seed() -> Iterator[None]:
    """Every test starts with the same random numbers and in float32, and leaves float32 behind."""
    keras.utils.set_random_seed(7)
    keras.config.set_dtype_policy("float32")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def input_gradient() -> Callable[..., np.ndarray]:
    """`input_gradient(function, x)`: the gradient of the scalar `function(x)` with respect to x."""

    def compute(function: Callable, x: np.ndarray) -> np.ndarray:
        if BACKEND == "tensorflow":
            import tensorflow as tf

            tensor = tf.constant(x)
            with tf.GradientTape() as tape:
                tape.watch(tensor)
                value = function(tensor)
            return tape.gradient(value, tensor).numpy()
        if BACKEND == "jax":
            import jax

            return np.asarray(jax.grad(function)(keras.ops.convert_to_tensor(x)))
        tensor = keras.ops.convert_to_tensor(x).requires_grad_(True)
        function(tensor).backward()
        return tensor.grad.cpu().numpy()

    return compute


@pytest.fixture
def weight_gradients() -> Callable[..., dict[str, np.ndarray]]:
    """`weight_gradients(model, x, labels)`: variable path -> the training loss's gradient, of every trainable one."""

    def compute(model: keras.Model, x: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
        def loss(output: object) -> object:
            return keras.ops.mean(keras.losses.sparse_categorical_crossentropy(labels, output, from_logits=True))

        if BACKEND == "tensorflow":
            import tensorflow as tf

            with tf.GradientTape() as tape:
                value = loss(model(x, training=True))
            found = tape.gradient(value, [v.value for v in model.trainable_variables])
        elif BACKEND == "jax":
            import jax

            fixed = [v.value for v in model.non_trainable_variables]
            found = jax.grad(lambda t: loss(model.stateless_call(t, fixed, x, training=True)[0]))(
                [v.value for v in model.trainable_variables]
            )
        else:
            model.zero_grad()
            loss(model(x, training=True)).backward()
            found = [v.value.grad for v in model.trainable_variables]
        paths = [v.path for v in model.trainable_variables]
        return {
            path: np.zeros(()) if g is None else keras.ops.convert_to_numpy(g) for path, g in zip(paths, found, strict=True)
        }

    return compute
