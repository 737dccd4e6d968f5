"""The training path of 3x3 and 5x5 convolutions against their definition in double precision, and against Keras' own layer."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from emotiw_keras.models.kernels import winograd
from emotiw_keras.models.kernels.large_batches import in_batches
from emotiw_keras.models.layers import Conv2D, GroupedConv2D

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="on TensorFlow only")

# The size of an error as a share of the size of the values: what each type keeps of a value, and what the steps make of it.
TOLERANCE = {"float32": 1e-5, "bfloat16": 2.5e-2}


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def convolved(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The definition, in double precision."""
    return sum(part @ kernel[i, j].astype("float64") for i, j, part in shifted(x, len(kernel)))


def shifted(x: np.ndarray, size: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """For each place in a kernel of size x size the inputs that it sees, (batch, height, width, channels)."""
    height, width = x.shape[1:3]
    margin = (size // 2, size // 2)
    padded = np.pad(x.astype("float64"), ((0, 0), margin, margin, (0, 0)))
    for i, j in itertools.product(range(size), repeat=2):
        yield i, j, padded[:, i : i + height, j : j + width]


def error(ours: object, right: np.ndarray) -> float:
    got = ops.convert_to_numpy(ops.cast(ours, "float64"))
    assert got.shape == right.shape
    return float(np.linalg.norm(got - right) / np.linalg.norm(right))


# Sides that leave 1, 2, 3 and no lines behind whole tiles, unequal ones, less than a tile.
SHAPES = [(5, 13, 13), (17, 6, 6), (1, 1, 1), (3, 4, 8), (2, 14, 13), (3, 3, 2), (2, 24, 5), (2, 7, 9)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("size", "dtype", "in_parts"), [(3, "float32", False), (3, "bfloat16", False), (5, "float32", False), (5, "float32", True)]
)
def test_outputs_and_both_gradients_are_those_of_the_definition(
    shape: tuple[int, int, int], size: int, dtype: str, in_parts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow as tf

    if in_parts:  # of one image each
        monkeypatch.setattr(winograd, "PART_BYTES", 1)
    x, kernel, upstream = (
        tf.cast(array, dtype) for array in (values(*shape, 5), values(size, size, 5, 7, seed=1), values(*shape, 7, seed=2))
    )
    with tf.GradientTape() as tape:
        tape.watch((x, kernel))
        y = winograd.convolve(x, kernel)
    dx, dk = tape.gradient(y, (x, kernel), upstream)
    assert y.dtype == dx.dtype == dk.dtype == dtype

    exact = [np.asarray(tf.cast(t, tf.float32)) for t in (x, kernel, upstream)]
    assert error(y, convolved(exact[0], exact[1])) < TOLERANCE[dtype]
    assert error(dx, convolved(exact[2], exact[1][::-1, ::-1].transpose(0, 1, 3, 2))) < TOLERANCE[dtype]
    right = [np.einsum("nyxc,nyxk->ck", part, exact[2]) for _, _, part in shifted(exact[0], size)]
    assert error(dk, np.reshape(right, kernel.shape)) < TOLERANCE[dtype]


@pytest.mark.parametrize("side", [13, 6])  # tiles of four kinds; of 3 x 3 alone
@pytest.mark.parametrize("size", [3, 5])
def test_an_image_sees_nothing_of_its_neighbours(size: int, side: int) -> None:
    import tensorflow as tf

    x, kernel, upstream = values(8, side, side, 3), values(size, size, 3, 4, seed=1), values(8, side, side, 4, seed=2)

    def computed(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        given = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(given)
            y = winograd.convolve(given, tf.constant(kernel))
        return y.numpy(), tape.gradient(y, given, upstream * np.isfinite(x[:, :1, :1, :1])).numpy()

    right, others = computed(x), [0, 1, 2, 4, 5, 6, 7]
    for spoiled in (np.nan, np.inf, -np.inf, 1e6, 1e20):
        x[3] = spoiled
        for found, expected in zip(computed(x), right, strict=True):
            np.testing.assert_array_equal(found[others], expected[others])
    upstream[3] = np.nan
    np.testing.assert_array_equal(computed(values(8, side, side, 3))[1][others], right[1][others])


@pytest.mark.parametrize("size", [3, 5])
def test_one_graph_serves_every_batch(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    monkeypatch.setattr(winograd, "PART_BYTES", 1)
    kernel = tf.constant(values(size, size, 4, 4, seed=1))
    upstream = values(6, 13, 13, 4, seed=2)

    @tf.function(input_signature=[tf.TensorSpec((None, 13, 13, 4)), tf.TensorSpec((None, 13, 13, 4))])
    def graph(x: tf.Tensor, upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = winograd.convolve(x, kernel)
        return y, tape.gradient(y, x, upstream)

    for batch in (1, 4, 6):
        x = values(batch, 13, 13, 4, seed=batch)
        y, dx = graph(tf.constant(x), tf.constant(upstream[:batch]))
        assert error(y, convolved(x, kernel.numpy())) < TOLERANCE["float32"]
        assert error(dx, convolved(upstream[:batch], kernel.numpy()[::-1, ::-1].transpose(0, 1, 3, 2))) < TOLERANCE["float32"]
    assert [tuple(t.shape) for t in graph(tf.zeros((0, 13, 13, 4)), tf.zeros((0, 13, 13, 4)))] == [(0, 13, 13, 4)] * 2


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("size", [3, 5])
def test_layers_train_on_it_and_evaluate_so_in_batches(
    winograd_calls: list[object], size: int, groups: int, bias: bool
) -> None:
    arguments = {"padding": "same", "activation": "relu", "use_bias": bias, "bias_initializer": "ones"}
    grouped = GroupedConv2D(128, size, groups=groups, **arguments)
    for layer in (grouped,) if groups == 2 else (grouped, Conv2D(64, size, **arguments)):
        winograd_calls.clear()
        x = ops.convert_to_tensor(values(2, 5, 5, 64 * groups))
        direct = ops.convert_to_numpy(layer(x))
        assert not winograd_calls
        assert error(layer(x, training=True), direct) < TOLERANCE["float32"]
        assert len(winograd_calls) == groups
        with in_batches():
            assert error(layer(x), direct) < TOLERANCE["float32"]
            assert len(winograd_calls) == 2 * groups
            layer.trainable = False
            np.testing.assert_array_equal(ops.convert_to_numpy(layer(x, training=True)), direct)
        np.testing.assert_array_equal(ops.convert_to_numpy(layer(x, training=True)), direct)
        assert len(winograd_calls) == 2 * groups


@pytest.mark.parametrize("tiles", [False, True])
def test_bfloat16_is_evaluated_directly_and_with_amx_trained_so(
    winograd_calls: list[object], monkeypatch: pytest.MonkeyPatch, tiles: bool
) -> None:
    monkeypatch.setattr(winograd, "bfloat16_tiles", lambda: tiles)
    layer, x = Conv2D(64, 3, padding="same", dtype="mixed_bfloat16"), ops.convert_to_tensor(values(2, 5, 5, 64))
    with in_batches():
        layer(x)
    assert not winograd_calls
    layer(x, training=True)
    assert bool(winograd_calls) is not tiles


@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 7, "padding": "same"},
        {"kernel_size": (3, 5), "padding": "same"},
        pytest.param({"kernel_size": 5, "padding": "same", "dtype": "mixed_bfloat16"}, marks=pytest.mark.bfloat16),
        {"kernel_size": 3, "padding": "valid"},
        {"kernel_size": 3, "padding": "same", "strides": 2},
        {"kernel_size": 3, "padding": "same", "dilation_rate": 2},
        {"kernel_size": 3, "padding": "same", "filters": 32},
        {"kernel_size": 3, "padding": "same", "groups": 2},
        {"kernel_size": 3, "padding": "same", "dtype": "mixed_float16"},
    ],
)
def test_other_convolutions_stay_as_they_are(winograd_calls: list[object], arguments: dict) -> None:
    layer = Conv2D(**{"filters": 64, **arguments})
    layer(ops.convert_to_tensor(values(1, 8, 8, 64)), training=True)
    assert not winograd_calls


def test_a_layer_trains_to_the_same_weights_as_kerass_own() -> None:
    def trained(kind: type) -> list[np.ndarray]:
        keras.utils.set_random_seed(7)
        layer = kind(64, 3, padding="same", activation="relu")
        model = keras.Sequential([keras.Input((7, 7, 64)), layer, keras.layers.Flatten()])
        model.compile(keras.optimizers.SGD(1e-4), "mse")
        x = values(12, 7, 7, 64)
        model.fit(x, np.tanh(x).reshape(12, -1), batch_size=5, epochs=3, shuffle=False, verbose=0)
        return model.get_weights()

    for ours, plain in zip(trained(Conv2D), trained(keras.layers.Conv2D), strict=True):
        np.testing.assert_allclose(ours, plain, atol=2e-6)


def test_channels_first_is_left_to_keras(winograd_calls: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.layers.Conv2D, "call", lambda self, inputs: inputs)
    x = ops.convert_to_tensor(values(1, 64, 64, 64))
    Conv2D(64, 3, padding="same", data_format="channels_first")(x, training=True)
    assert not winograd_calls
    Conv2D(64, 3, padding="same", data_format="channels_last")(x, training=True)
    assert winograd_calls


def test_a_weight_file_is_that_of_kerass_own_layer(tmp_path: Path) -> None:
    def model(kind: type) -> keras.Model:
        return keras.Sequential([keras.Input((4, 4, 3)), kind(2, 3), kind(2, 1)])

    ours = model(Conv2D)
    ours.save_weights(tmp_path / "a.weights.h5")
    plain = model(keras.layers.Conv2D)
    plain.load_weights(tmp_path / "a.weights.h5")
    for a, b in zip(ours.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
