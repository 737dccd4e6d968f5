"""Layers the networks need beyond stock Keras: local response normalisation and grouped convolution.

They use `keras.ops` only, so they run on every Keras backend, and hold no function that must be compiled: stock Keras
runs a grouped convolution on a CPU through `jit_compile=True`, which is an order of magnitude slower and stays in an
exported model.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from emotiw_keras.errors import ModelError

PACKAGE = "emotiw_keras"
Tensor = Any
Pads = tuple[tuple[int, int], tuple[int, int]]


def band_matrix(channels: int, depth_radius: int) -> np.ndarray:
    """The (channels, channels) matrix with 1 where two channels are at most `depth_radius` apart and 0 elsewhere."""
    index = np.arange(channels)
    return (np.abs(index[:, None] - index[None, :]) <= depth_radius).astype("float32")


def _inverse_power(d: Tensor, beta: float) -> Tensor:
    """d ** -beta for positive d; a general power is several times slower than square roots."""
    if beta == 0.5:
        return ops.rsqrt(d)
    if beta == 0.75:
        r = ops.rsqrt(d)
        return ops.multiply(r, ops.sqrt(r))
    return ops.power(d, -beta)


@keras.saving.register_keras_serializable(package=PACKAGE)
class LocalResponseNormalization(keras.layers.Layer):
    """Local response normalisation across channels: `x / (bias + alpha * sum of x^2 over the near channels) ** beta`.

    The sum runs over the channel itself and `depth_radius` channels on either side, cut off at the first and last
    channel. `alpha` is TensorFlow's and MatConvNet's: it multiplies the sum. Caffe multiplies the mean over the window,
    so Caffe's `local_size: n, alpha: a, k: k` is `depth_radius=(n - 1) // 2, alpha=a / n, bias=k` here.

    Input and output: float (batch, height, width, channels). Under mixed_float16 it computes in float32, because
    squares of activations beyond 256 overflow float16; bfloat16 has the range of float32 and is used as it is.

    Args:
        depth_radius: channels on either side, 0 or more.
        bias: the constant in the denominator, above 0.
        alpha: factor of the sum of squares, 0 or more.
        beta: exponent; 0.75 and 0.5 are computed with square roots.

    Source: Krizhevsky et al. 2012, section 3.3; Caffe `lrn_layer.cpp`.

    Example:
        >>> layer = LocalResponseNormalization(depth_radius=2, bias=1.0, alpha=1e-4 / 5, beta=0.75)
        >>> layer(keras.ops.ones((1, 6, 6, 96))).shape
        (1, 6, 6, 96)
    """

    def __init__(
        self, depth_radius: int = 2, bias: float = 1.0, alpha: float = 2e-5, beta: float = 0.75, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if depth_radius < 0 or bias <= 0 or alpha < 0:
            raise ModelError(
                f"local response normalisation got depth_radius={depth_radius}, bias={bias}, alpha={alpha}; "
                "depth_radius and alpha must be at least 0, bias above 0"
            )
        self.depth_radius = depth_radius
        self.bias = bias
        self.alpha = alpha
        self.beta = beta

    def call(self, inputs: Tensor) -> Tensor:
        if self.compute_dtype == "float16":
            return ops.cast(self._normalise(ops.cast(inputs, "float32")), "float16")
        return self._normalise(inputs)

    def _normalise(self, inputs: Tensor) -> Tensor:
        channels = inputs.shape[-1]
        dtype = keras.backend.standardize_dtype(inputs.dtype)
        # the constants stand in the matrices: a factor on an array of this size costs as much as the root
        band, beta = band_matrix(channels, self.depth_radius), self.beta
        forward = ops.convert_to_tensor(self.alpha * band, dtype)
        backward = ops.convert_to_tensor(2.0 * self.alpha * beta * band, dtype)

        # Automatic differentiation goes back through the root and the product one by one; written by hand the
        # gradient is one more matrix product: dx = g d^-beta - 2 alpha beta x ((g y / d) B), B being symmetric.
        @ops.custom_gradient
        def normalise(x: Tensor) -> tuple[Tensor, Any]:
            d = self.bias + ops.matmul(ops.square(x), forward)
            scale = _inverse_power(d, beta)
            y = x * scale

            def gradient(*args: Tensor, upstream: Tensor | None = None) -> Tensor:
                g = args[0] if upstream is None else upstream
                return g * scale - x * ops.matmul(g * y / d, backward)

            return y, gradient

        flat = normalise(ops.reshape(inputs, (-1, channels)))
        return ops.reshape(flat, ops.shape(inputs))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        own = {"depth_radius": self.depth_radius, "bias": self.bias, "alpha": self.alpha, "beta": self.beta}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package=PACKAGE)
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras' batch normalisation over the channels, on TensorFlow as its fused kernel: half of the time of the separate steps.

    Input and output: float (batch, height, width, channels). A frozen layer uses and keeps its moving statistics.

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167.
    """

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Tensor:
        if keras.backend.backend() != "tensorflow" or len(inputs.shape) != 4 or mask is not None:
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        x = ops.cast(inputs, self.compute_dtype)
        gamma, beta = (tf.cast(variable.value, tf.float32) for variable in (self.gamma, self.beta))
        learns = bool(training) and self.trainable
        mean, variance = (tf.zeros(0), tf.zeros(0)) if learns else (self.moving_mean.value, self.moving_variance.value)
        y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x, scale=gamma, offset=beta, mean=mean, variance=variance, epsilon=self.epsilon, is_training=learns
        )
        if learns:
            for moving, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
                moving.assign(moving.value * self.momentum + now * (1 - self.momentum))
        return y


def explicit_padding(padding: str | int | Pads | list[list[int]]) -> str | Pads:
    """`padding` as "valid", "same" or ((top, bottom), (left, right)); an int stands for all four sides.

    Raises ModelError for anything else.
    """
    if isinstance(padding, str):
        if padding in ("valid", "same"):
            return padding
    elif isinstance(padding, int):
        if padding >= 0:
            return ((padding, padding), (padding, padding))
    else:
        pairs = [tuple(int(side) for side in pair) for pair in padding]
        if len(pairs) == 2 and all(len(pair) == 2 and min(pair) >= 0 for pair in pairs):
            return ((pairs[0][0], pairs[0][1]), (pairs[1][0], pairs[1][1]))
    raise ModelError(f"padding {padding!r}: expected 'valid', 'same', an int, or ((top, bottom), (left, right))")


def _pair(value: int | tuple[int, int] | list[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


@keras.saving.register_keras_serializable(package=PACKAGE)
class GroupedConv2D(keras.layers.Layer):
    """2-D convolution in `groups` independent parts, as split, convolve, concatenate.

    One `kernel` of shape (height, width, channels / groups, filters), as in Keras and (transposed) in Caffe: group g
    reads input channels [g C/groups, (g+1) C/groups) and owns outputs [g filters/groups, (g+1) filters/groups). Equal
    in its outputs to `keras.layers.Conv2D(groups=groups)`.

    Input: float (batch, height, width, channels). Output: float (batch, new_height, new_width, filters).

    Args:
        filters: output channels, a multiple of groups.
        kernel_size, strides: int or (vertical, horizontal).
        padding: "valid", "same", an int for all sides, or ((top, bottom), (left, right)) zeros.
        groups: number of parts; must divide the input channels.
        use_bias, activation, kernel_initializer, bias_initializer, kernel_regularizer: as in `keras.layers.Conv2D`.

    Raises ModelError where groups does not divide the channels or the filters.

    Example:
        >>> GroupedConv2D(256, 5, padding=2, groups=2)(keras.ops.ones((1, 27, 27, 96))).shape
        (1, 27, 27, 256)
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = 1,
        padding: str | int | Pads = "valid",
        groups: int = 1,
        use_bias: bool = True,
        activation: Any = None,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if groups < 1 or filters < 1 or filters % groups:
            raise ModelError(f"grouped convolution got {filters} filters in {groups} groups; groups must divide them")
        self.filters = filters
        self.kernel_size = _pair(kernel_size)
        self.strides = _pair(strides)
        self.padding = explicit_padding(padding)
        self.groups = groups
        self.use_bias = use_bias
        self.activation = keras.activations.get(activation)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        channels = input_shape[-1]
        if channels is None or channels % self.groups:
            raise ModelError(f"grouped convolution got {channels} input channels; {self.groups} groups must divide them")
        self.kernel = self.add_weight(
            name="kernel",
            shape=(*self.kernel_size, channels // self.groups, self.filters),
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer=self.bias_initializer)

    def call(self, inputs: Tensor) -> Tensor:
        x, mode = inputs, self.padding
        if not isinstance(mode, str):
            # "same" spares a copy of the input where it means the same zeros.
            around = tuple(((size - 1) // 2, size // 2) for size in self.kernel_size)
            if mode == around and self.strides == (1, 1) and all(size % 2 for size in self.kernel_size):
                mode = "same"
            else:
                x, mode = ops.pad(x, ((0, 0), *mode, (0, 0))) if any(map(any, mode)) else x, "valid"
        kernel = ops.convert_to_tensor(self.kernel)
        parts = zip(ops.split(x, self.groups, axis=-1), ops.split(kernel, self.groups, axis=-1), strict=True)
        outputs = [ops.conv(p, k, strides=self.strides, padding=mode, data_format="channels_last") for p, k in parts]
        y = outputs[0] if self.groups == 1 else ops.concatenate(outputs, axis=-1)
        if self.bias is not None:
            y = ops.add(y, self.bias)
        return self.activation(y)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        sizes: list[int | None] = []
        for axis in (0, 1):
            size, kernel, stride = input_shape[1 + axis], self.kernel_size[axis], self.strides[axis]
            if size is None:
                sizes.append(None)
            elif self.padding == "same":
                sizes.append(-(-size // stride))
            else:
                extra = 0 if isinstance(self.padding, str) else sum(self.padding[axis])
                sizes.append((size + extra - kernel) // stride + 1)
        return (input_shape[0], *sizes, self.filters)

    def get_config(self) -> dict[str, Any]:
        own = {
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "groups": self.groups,
            "use_bias": self.use_bias,
            "activation": keras.activations.serialize(self.activation),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
        }
        return {**super().get_config(), **own}
