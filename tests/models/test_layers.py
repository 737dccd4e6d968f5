"""The zoo's own layers against formulas written down independently in NumPy."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from emotiw_keras.errors import ModelError
from emotiw_keras.models import layers
from emotiw_keras.models.kernels import fused, winograd
from emotiw_keras.models.kernels.large_batches import in_batches
from emotiw_keras.models.layers import Conv2D, Dense, GroupedConv2D, LocalResponseNormalization
from emotiw_keras.models.pooling import AdaptiveMeanPooling2D, CaffeMaxPooling2D

BACKEND = keras.backend.backend()
BFLOAT16_STEP = 2.0**-8


def caffe_lrn(x: np.ndarray, size: int, alpha: float, beta: float, k: float) -> np.ndarray:
    """Caffe's lrn_layer.cpp, one channel at a time: x / (k + alpha / size * sum of x^2 in the window) ** beta."""
    x = x.astype("float64")
    out = np.empty_like(x)
    channels, reach = x.shape[-1], (size - 1) // 2
    for c in range(channels):
        window = x[..., max(0, c - reach) : min(channels, c + reach + 1)]
        out[..., c] = x[..., c] / (k + alpha / size * (window**2).sum(axis=-1)) ** beta
    return out


def values(*shape: int, spread: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(3).standard_normal(shape) * spread).astype("float32")


def numpy_of(tensor: object) -> np.ndarray:
    return ops.convert_to_numpy(ops.cast(tensor, "float32"))


# size, alpha, beta, k in Caffe's terms: AlexNet, VGG-CNN, and exponents that take each of the three ways.
CAFFE_LRNS = [(5, 1e-4, 0.75, 1.0), (5, 5e-4, 0.75, 2.0), (3, 1e-2, 0.5, 1.0), (7, 1e-3, 0.6, 1.5)]


@pytest.fixture
def loops(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The functions that were made into one loop."""
    made: list[object] = []
    original = fused.in_one_loop

    def noted(function: Callable) -> Callable:
        made.append(function)
        return original(function)

    monkeypatch.setattr(fused, "in_one_loop", noted)
    return made


def lrn_of(caffe: tuple[int, float, float, float], **kwargs: object) -> LocalResponseNormalization:
    size, alpha, beta, k = caffe
    return LocalResponseNormalization((size - 1) // 2, bias=k, alpha=alpha / size, beta=beta, **kwargs)


@pytest.mark.parametrize("caffe", CAFFE_LRNS)
@pytest.mark.parametrize("channels", [1, 2, 4, 96, 144])
def test_lrn_is_caffes_formula_up_to_the_first_and_last_channel(caffe: tuple, channels: int) -> None:
    x = values(2, 3, 4, channels, spread=60.0)
    y = numpy_of(lrn_of(caffe)(x))
    np.testing.assert_allclose(y, caffe_lrn(x, *caffe), rtol=2e-6, atol=1e-5)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.nn is TensorFlow's")
def test_lrn_is_tensorflows_op() -> None:
    import tensorflow as tf

    x = values(2, 5, 5, 96, spread=60.0)
    stock = tf.nn.local_response_normalization(x, depth_radius=2, bias=1.0, alpha=2e-5, beta=0.75)
    np.testing.assert_allclose(numpy_of(LocalResponseNormalization()(x)), stock.numpy(), rtol=2e-6, atol=1e-5)


def test_lrn_at_activations_of_300_in_float16_is_finite_and_right() -> None:
    x = np.full((1, 2, 2, 96), 300.0, "float32")
    y = lrn_of(CAFFE_LRNS[0], dtype="mixed_float16")(x)
    assert keras.backend.standardize_dtype(y.dtype) == "float16"
    np.testing.assert_allclose(numpy_of(y), caffe_lrn(x, *CAFFE_LRNS[0]), rtol=1e-3)


@pytest.mark.parametrize("caffe", CAFFE_LRNS)
def test_lrn_in_bfloat16_is_right_to_its_precision(caffe: tuple) -> None:
    x = numpy_of(ops.cast(values(2, 3, 4, 96, spread=60.0), "bfloat16"))
    y = lrn_of(caffe, dtype="mixed_bfloat16")(x)
    assert keras.backend.standardize_dtype(y.dtype) == "bfloat16"
    np.testing.assert_allclose(numpy_of(y), caffe_lrn(x, *caffe), rtol=4 * BFLOAT16_STEP, atol=1e-3)


@pytest.mark.parametrize("caffe", CAFFE_LRNS)
def test_lrn_gradient_is_the_slope_of_caffes_formula(caffe: tuple, input_gradient) -> None:
    x, weight = values(1, 1, 2, 7, spread=30.0), values(1, 1, 2, 7)[..., ::-1].copy()
    layer = lrn_of(caffe)
    found = input_gradient(lambda t: ops.sum(ops.multiply(layer(t), ops.convert_to_tensor(weight))), x)
    step, slope = 1e-4, np.empty_like(x, dtype="float64")
    for index in itertools.product(*map(range, x.shape)):
        nudge = np.zeros_like(x, dtype="float64")
        nudge[index] = step
        up, down = (caffe_lrn(x + s * nudge, *caffe) * weight for s in (1, -1))
        slope[index] = (up - down).sum() / (2 * step)
    np.testing.assert_allclose(found, slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("channels", [96, 144])  # the whole band matrix, and its blocks
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_lrn_gradient_is_automatic_differentiations(policy: str, channels: int, input_gradient) -> None:
    x, weight = values(2, 3, 3, channels, spread=60.0), values(2, 3, 3, channels)
    x, weight = numpy_of(ops.cast(x, "bfloat16")), ops.convert_to_tensor(weight)
    layer = LocalResponseNormalization(bias=1.0, alpha=2e-5, dtype=policy)
    band = ops.convert_to_tensor((abs(np.arange(channels)[:, None] - np.arange(channels)) <= 2).astype("float32"))

    def plain(t: object) -> object:
        return ops.sum(t * ops.power(1.0 + 2e-5 * ops.matmul(ops.square(t), band), -0.75) * weight)

    found = input_gradient(lambda t: ops.sum(ops.cast(layer(t), "float32") * weight), x)
    expected = input_gradient(plain, x)
    tolerance = {"float32": 2e-6, "mixed_bfloat16": 6 * BFLOAT16_STEP, "mixed_float16": 2e-3}[policy]
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * abs(expected).max())


@pytest.mark.skipif(BACKEND != "tensorflow", reason="on TensorFlow only")
@pytest.mark.parametrize("caffe", CAFFE_LRNS)
@pytest.mark.parametrize("channels", [96, 144])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_lrn_in_one_loop_is_that_of_the_steps(policy: str, channels: int, caffe: tuple, loops: list[object]) -> None:
    import tensorflow as tf

    layer, dtype = lrn_of(caffe, dtype=policy), keras.DTypePolicy(policy).compute_dtype
    x, weight = (tf.cast(values(2, 16, 24, channels, spread=spread), dtype) for spread in (60.0, 1.0))

    def computed(layer: LocalResponseNormalization, *tensors: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(tensors[0])
            y = layer(tensors[0], training=True)
        return y, tape.gradient(y, *tensors)

    exact = computed(lrn_of(caffe), *(tf.cast(t, "float32") for t in (x, weight)))  # outside a graph: step by step
    assert not loops
    found = tf.function(computed)(layer, x, weight)
    assert len(loops) == 4
    tolerance = {"float32": 2e-6, "mixed_bfloat16": 8 * BFLOAT16_STEP, "mixed_float16": 2e-3}[policy]
    for ours, right in zip(found, exact, strict=True):  # the gradient is a difference of larger terms
        assert ours.dtype == dtype
        np.testing.assert_allclose(numpy_of(ours), numpy_of(right), rtol=tolerance, atol=tolerance * abs(numpy_of(right)).max())


@pytest.mark.skipif(BACKEND != "tensorflow", reason="on TensorFlow only")
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_a_convolution_with_relu_and_lrn_behind_it_has_the_gradients_of_the_steps(
    policy: str, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow as tf

    convolution = GroupedConv2D(96, 3, groups=groups, padding="same", activation="relu", dtype=policy)
    norm = LocalResponseNormalization(alpha=1e-4, dtype=policy)
    x, upstream = tf.constant(values(2, 19, 19, 96, spread=20.0)), tf.constant(values(2, 19, 19, 96))
    convolution.build(x.shape)
    kernel, bias = (variable.value for variable in convolution.trainable_variables)
    masked, joined = [], []
    relu, concatenate = fused.before_relu, fused.relu_and_concatenate
    monkeypatch.setattr(fused, "before_relu", lambda x: masked.append(relu(x)) or masked[-1])
    monkeypatch.setattr(fused, "relu_and_concatenate", lambda parts: joined.append(parts) or concatenate(parts))

    def computed() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch((x, kernel, bias))
            y = norm(convolution(x, training=True), training=True)
            loss = tf.reduce_sum(tf.cast(y, tf.float32) * upstream)
        return [tf.cast(y, tf.float32), *tape.gradient(loss, (x, kernel, bias))]

    steps = computed()
    assert not masked and not joined
    loops = tf.function(computed)()
    assert (len(joined), [before is not None for before in masked]) == ((0, [True]) if groups == 1 else (1, [False]))
    tolerance = {"float32": 1e-5, "mixed_bfloat16": 16 * BFLOAT16_STEP}[policy]  # TensorFlow sums a bias' gradient in bfloat16
    for ours, right in zip(loops, steps, strict=True):
        np.testing.assert_allclose(ours, right, rtol=tolerance, atol=tolerance * abs(np.asarray(right)).max())


@pytest.mark.skipif(BACKEND != "tensorflow", reason="on TensorFlow only")
@pytest.mark.parametrize("groups", [1, 2, 128])
def test_the_gradient_of_a_bias_in_bfloat16_is_the_sum_over_all_outputs(groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    monkeypatch.setattr(winograd, "bfloat16_tiles", lambda: False)
    settings = {"filters": 128, "kernel_size": 3, "padding": "same", "dtype": "mixed_bfloat16"}
    layer = Conv2D(**settings) if groups == 1 else GroupedConv2D(groups=groups, **settings)
    x, upstream = tf.ones((8, 13, 13, 128)), values(8, 13, 13, 128) + 1
    layer.build(x.shape)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.cast(layer(x, training=True), tf.float32) * upstream)
    found = numpy_of(tape.gradient(loss, layer.bias.value))
    np.testing.assert_allclose(found, upstream.sum(axis=(0, 1, 2)), rtol=2 * BFLOAT16_STEP)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="on TensorFlow only")
def test_lrn_is_compiled_for_many_large_images_that_are_not_frozen(loops: list[object]) -> None:
    import tensorflow as tf

    def traced(side: int, training: bool = False, frozen: bool = False) -> int:
        layer = LocalResponseNormalization(trainable=not frozen)
        loops.clear()
        tf.function(lambda x: layer(x, training=training))(tf.ones((2, side, 16, 96)))
        return len(loops)

    assert traced(22, training=True) == 4
    assert traced(21, training=True) == 0
    assert traced(22) == traced(22, training=True, frozen=True) == 0
    with in_batches():
        assert traced(22) == 4
        assert traced(22, frozen=True) == 0
    loops.clear()
    LocalResponseNormalization()(tf.ones((2, 22, 16, 96)), training=True)  # without a graph each call would compile
    assert not loops


def test_lrn_refuses_what_cannot_be_meant() -> None:
    with pytest.raises(ModelError, match="bias=0"):
        LocalResponseNormalization(bias=0.0)


def reference_conv(x, kernel, bias, strides, pads, groups) -> np.ndarray:
    """Grouped convolution as loops over groups, rows and columns, in float64."""
    x = np.pad(x.astype("float64"), ((0, 0), *pads, (0, 0)))
    kh, kw, depth, filters = kernel.shape
    rows, cols = (x.shape[1] - kh) // strides[0] + 1, (x.shape[2] - kw) // strides[1] + 1
    out = np.zeros((x.shape[0], rows, cols, filters))
    share = filters // groups
    for g, r, c in itertools.product(range(groups), range(rows), range(cols)):
        patch = x[:, r * strides[0] :, c * strides[1] :, g * depth : (g + 1) * depth][:, :kh, :kw]
        own = slice(g * share, (g + 1) * share)
        out[:, r, c, own] = np.tensordot(patch, kernel[..., own].astype("float64"), axes=3)
    return out + bias


@pytest.mark.parametrize(
    ("groups", "size", "strides", "padding", "pads"),
    [
        (1, 3, 1, "valid", ((0, 0), (0, 0))),
        (2, 5, 1, "same", ((2, 2), (2, 2))),
        (2, 5, 1, 2, ((2, 2), (2, 2))),
        (2, 3, 2, 1, ((1, 1), (1, 1))),
        (3, (3, 2), (2, 1), ((0, 2), (1, 0)), ((0, 2), (1, 0))),
        (6, 3, 1, 0, ((0, 0), (0, 0))),
    ],
)
def test_grouped_convolution_is_the_sum_over_its_window(groups, size, strides, padding, pads) -> None:
    x = values(2, 9, 8, 6)
    layer = GroupedConv2D(
        12, size, strides, padding, groups, kernel_initializer="random_normal", bias_initializer="random_normal"
    )
    y = numpy_of(layer(x))
    kernel, bias = (ops.convert_to_numpy(w) for w in layer.weights)
    assert kernel.shape == (*layer.kernel_size, 6 // groups, 12)
    expected = reference_conv(x, kernel, bias, layer.strides, pads, groups)
    assert y.shape == expected.shape == layer.compute_output_shape(x.shape)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", ["relu", "softmax"])
def test_grouped_convolution_activates_all_channels_together(activation: str) -> None:
    arguments = {"padding": "same", "kernel_initializer": "random_normal", "bias_initializer": "random_normal"}
    layer, plain = GroupedConv2D(8, 3, groups=2, activation=activation, **arguments), GroupedConv2D(8, 3, groups=2, **arguments)
    x = values(2, 5, 5, 4)
    layer(x), plain(x)
    plain.set_weights(layer.get_weights())
    expected = keras.activations.get(activation)(plain(x))
    np.testing.assert_allclose(numpy_of(layer(x)), numpy_of(expected), rtol=1e-6, atol=1e-7)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="on TensorFlow only")
def test_one_loop_rounds_to_bfloat16_as_a_cast_does() -> None:
    import tensorflow as tf

    # every bfloat16, NaN and infinity too, plus the halves between them and what lies on either side of those
    upper, lower = np.arange(1 << 16, dtype="uint32") << 16, np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], "uint32")
    exact = (upper[:, None] + lower).view("float32")
    exact[np.isnan(exact)] = np.nan  # as an operation of the processor makes it
    expected = tf.cast(exact, tf.bfloat16)
    found = fused.compiled(fused._to_bfloat16)(tf.constant(exact))
    np.testing.assert_array_equal(np.isnan(tf.cast(found, tf.float32)), np.isnan(exact))
    kept = ~np.isnan(exact)
    np.testing.assert_array_equal(*(tf.bitcast(t, tf.uint16).numpy()[kept] for t in (found, expected)))
    divisors = tf.constant([0.0, 1.0, np.nan, np.inf], tf.bfloat16)
    spoiled = fused.in_one_loop(lambda x, y: x / y)(tf.zeros(4, tf.bfloat16), divisors)
    assert np.isnan(tf.cast(spoiled, tf.float32)).tolist() == [True, False, True, False]


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("large", [1, 1 << 20])
def test_dense_is_keras_dense_with_the_same_slopes(
    policy: str, activation: str | None, large: int, input_gradient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "LARGE_KERNEL", large)
    ours, theirs = Dense(5, activation, dtype=policy), keras.layers.Dense(5, activation, dtype=policy)
    x, weight = values(3, 8), ops.convert_to_tensor(values(3, 5))
    ours(x), theirs(x)
    theirs.set_weights([kernel + 0.1 for kernel in ours.get_weights()])
    ours.set_weights(theirs.get_weights())

    def loss(layer: keras.layers.Dense, t: object) -> object:
        return ops.sum(ops.cast(layer(t, training=True), "float32") * weight)

    np.testing.assert_allclose(numpy_of(ours(x, training=True)), numpy_of(theirs(x)), rtol=1e-6, atol=1e-6)
    found, expected = (input_gradient(lambda t, layer=layer: loss(layer, t), x) for layer in (ours, theirs))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        slopes = []
        for layer in (ours, theirs):
            with tf.GradientTape() as tape:
                total = loss(layer, tf.constant(x))
            slopes.append(tape.gradient(total, [variable.value for variable in layer.trainable_variables]))
        for mine, other in zip(*slopes, strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-5)


def test_dense_multiplies_in_blocks_where_it_is_trained_or_evaluated_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "LARGE_KERNEL", 1)
    layer, x = Dense(64), values(3, 512)
    direct, blocks = numpy_of(layer(x)), numpy_of(layer(x, training=True))
    np.testing.assert_allclose(blocks, direct, atol=1e-5)
    with in_batches():
        np.testing.assert_array_equal(numpy_of(layer(x)), blocks)
    assert (blocks != direct).any() == (BACKEND == "tensorflow")  # the sums are of other parts
    layer.trainable = False
    with in_batches():
        np.testing.assert_array_equal(numpy_of(layer(x)), direct)
        np.testing.assert_array_equal(numpy_of(layer(x, training=True)), direct)
    odd = Dense(64)  # rows that make no four blocks
    np.testing.assert_array_equal(numpy_of(odd(x[:, :511], training=True)), numpy_of(odd(x[:, :511])))


def test_dense_saves_and_loads_as_keras_dense(tmp_path: Path) -> None:
    nets = [keras.Sequential([keras.Input((4,)), kind(3, name="fc")]) for kind in (Dense, keras.layers.Dense)]
    nets[1].save_weights(tmp_path / "stock.weights.h5")
    nets[0].load_weights(tmp_path / "stock.weights.h5")
    np.testing.assert_array_equal(nets[0].get_weights()[0], nets[1].get_weights()[0])


def test_grouped_convolution_config_makes_the_same_layer() -> None:
    layer = GroupedConv2D(
        4, 3, 2, ((0, 1), (2, 0)), 2, use_bias=False, activation="relu", kernel_regularizer=keras.regularizers.L2(0.1)
    )
    layer(values(1, 8, 8, 4))
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    again.set_weights(layer.get_weights())
    x = values(1, 8, 8, 4)
    np.testing.assert_array_equal(numpy_of(again(x)), numpy_of(layer(x)))
    assert (again.groups, again.padding, again.use_bias) == (2, ((0, 1), (2, 0)), False)
    assert again.kernel_regularizer.l2 == pytest.approx(0.1)
    assert (numpy_of(layer(x)) >= 0).all()


@pytest.mark.parametrize("padding", ["full", -1, ((1, 1),), ((1, -1), (0, 0))])
def test_grouped_convolution_refuses_other_paddings(padding: object) -> None:
    with pytest.raises(ModelError, match="expected 'valid', 'same', an int"):
        GroupedConv2D(4, 3, padding=padding)


def test_grouped_convolution_refuses_groups_that_do_not_divide() -> None:
    with pytest.raises(ModelError, match="5 filters in 2 groups"):
        GroupedConv2D(5, 3, groups=2)
    with pytest.raises(ModelError, match="3 input channels"):
        GroupedConv2D(4, 3, groups=2)(values(1, 8, 8, 3))


# size in, window, stride, size out, from Caffe's rule; the tables of both network families and edges around them.
@pytest.mark.parametrize(
    ("size", "pool", "stride", "out"),
    [(55, 3, 2, 27), (54, 3, 2, 27), (26, 3, 2, 13), (13, 3, 2, 6), (109, 3, 3, 37), (33, 2, 2, 17), (17, 3, 3, 6)]
    + [(3, 3, 2, 1), (4, 3, 2, 2), (4, 3, 3, 2), (5, 3, 3, 2), (6, 3, 3, 2), (7, 3, 3, 3)],
)
def test_caffe_pooling_rounds_up_and_cuts_its_last_windows_off(size: int, pool: int, stride: int, out: int) -> None:
    # all values negative: padding with zeros would win every cut window
    x = values(2, size, size, 3) - 50
    y = numpy_of(CaffeMaxPooling2D(pool, stride)(x))
    expected = np.empty((2, out, out, 3), "float32")
    for r, c in itertools.product(range(out), repeat=2):
        window = x[:, r * stride : r * stride + pool, c * stride : c * stride + pool]
        expected[:, r, c] = window.max(axis=(1, 2))
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_caffe_pooling_in_half_precision_gives_finite_gradients(policy: str, input_gradient) -> None:
    layer = CaffeMaxPooling2D(3, 2, dtype=policy)
    found = input_gradient(lambda t: ops.sum(ops.cast(layer(t), "float32")), values(1, 4, 4, 2))
    assert np.isfinite(found).all()
    assert found.sum() == pytest.approx(8)


def test_caffe_pooling_refuses_an_image_smaller_than_its_window() -> None:
    with pytest.raises(ModelError, match="got a size of 2"):
        CaffeMaxPooling2D(3, 2)(values(1, 2, 2, 1))


@pytest.mark.parametrize("size", [(6, 6), (1, 1), (2, 7), (13, 5), (12, 18)])
def test_adaptive_mean_is_the_mean_of_each_window(size: tuple[int, int]) -> None:
    x = values(2, *size, 3)
    expected = np.empty((2, 6, 6, 3), "float64")
    for r, c in itertools.product(range(6), repeat=2):
        (top, bottom), (left, right) = (
            (int(np.floor(i * n / 6)), int(np.ceil((i + 1) * n / 6))) for i, n in zip((r, c), size, strict=True)
        )
        expected[:, r, c] = x[:, top:bottom, left:right].astype("float64").mean(axis=(1, 2))
    np.testing.assert_allclose(numpy_of(AdaptiveMeanPooling2D(6)(x)), expected, rtol=1e-4, atol=1e-5)
