"""Layers the networks need beyond stock Keras: local response normalisation and grouped convolution.

They run on every Keras backend; what is faster on TensorFlow without a GPU is in `kernels/`. Single faces and exported models
hold no function that must be compiled: stock Keras runs a grouped convolution on a CPU through `jit_compile=True`, which is an
order of magnitude slower and stays in an exported model.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from emotiw_keras import config
from emotiw_keras.errors import ModelError
from emotiw_keras.keras_names import PACKAGE
from emotiw_keras.models.kernels import fused, winograd
from emotiw_keras.models.kernels.large_batches import traced_in_batches

# A channel's neighbours lie in its own block of so many channels and the two beside it.
BLOCK = 16
# From so many channels on, most of a product with the whole band matrix is with zeros.
BLOCKED_FROM = 128
# From so many elements of an image on it pays to compile what is done to each.
LARGE = 1 << 15
# From so many elements on a kernel is not in the cache when its product comes.
LARGE_KERNEL = 1 << 20
Tensor = Any
Pads = tuple[tuple[int, int], tuple[int, int]]


def band_matrix(channels: int, depth_radius: int) -> np.ndarray:
    """The (channels, channels) matrix with 1 where two channels are at most `depth_radius` apart and 0 elsewhere."""
    index = np.arange(channels)
    return (np.abs(index[:, None] - index[None, :]) <= depth_radius).astype("float32")


def band_blocks(depth_radius: int) -> np.ndarray:
    """The band matrix of channels in blocks of `BLOCK`, as a convolution over the blocks: (1, 3, BLOCK, BLOCK)."""
    return band_matrix(3 * BLOCK, depth_radius)[:, BLOCK : 2 * BLOCK].reshape(1, 3, BLOCK, BLOCK)


def _inverse_power(d: Tensor, beta: float) -> Tensor:
    """d ** -beta for positive d; a general power is several times slower than square roots."""
    if beta == 0.5:
        return ops.rsqrt(d)
    if beta == 0.75:
        r = ops.rsqrt(d)
        return ops.multiply(r, ops.sqrt(r))
    if beta > 1:
        return ops.multiply(_inverse_power(d, beta - 1), ops.square(ops.rsqrt(d)))
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
        >>> tuple(layer(keras.ops.ones((1, 6, 6, 96))).shape)
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

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        often = self.trainable and (training or traced_in_batches())
        way = fused.in_one_loop if often and fused.suits(inputs.shape[1:], LARGE) else fused.step_by_step
        if self.compute_dtype == "float16":
            return ops.cast(self._normalise(ops.cast(inputs, "float32"), way), "float16")
        return self._normalise(inputs, way)

    def _normalise(self, inputs: Tensor, way: fused.Way) -> Tensor:
        height, width, channels = inputs.shape[-3:]
        dtype = keras.backend.standardize_dtype(inputs.dtype)
        known = len(inputs.shape) == 4 and height is not None and width is not None
        fits = known and channels >= BLOCKED_FROM and channels % BLOCK == 0 and self.depth_radius <= BLOCK
        blocked = fits and config.fast_kernels()
        band = band_blocks(self.depth_radius) if blocked else band_matrix(channels, self.depth_radius)
        # the constants stand in the matrices: a factor on an array of this size costs as much as the root
        beta = self.beta
        forward = ops.convert_to_tensor(self.alpha * band, dtype)
        backward = ops.convert_to_tensor(2.0 * self.alpha * beta * band, dtype)

        def near(x: Tensor, weights: Tensor) -> Tensor:
            if blocked:
                return ops.conv(x, weights, padding="same", data_format="channels_last")
            return ops.matmul(x, weights)

        shape = (-1, height * width, channels // BLOCK, BLOCK) if blocked else (-1, channels)

        def scale(squares: Tensor, power: float = beta) -> Tensor:
            return _inverse_power(self.bias + squares, power)

        square = way(ops.square)
        scaled = way(lambda x, squares: x * scale(squares))
        spread = way(lambda g, x, squares: g * x * scale(squares, beta + 1))
        # behind a ReLU the gradient of both is one loop: it goes to what the ReLU was given
        before = fused.before_relu(inputs) if way is fused.in_one_loop else None

        @way
        def returned(g: Tensor, x: Tensor, squares: Tensor, from_near: Tensor) -> Tensor:
            dx = g * scale(squares) - x * from_near
            return dx if before is None else ops.where(x > 0, dx, 0.0)

        # Automatic differentiation goes back through the root and the product one by one; written by hand the
        # gradient is one more product: dx = g d^-beta - 2 alpha beta x ((g x d^-(beta + 1)) B), B being symmetric.
        @ops.custom_gradient
        def normalise(given: Tensor) -> tuple[Tensor, Any]:
            x = given if before is None else ops.reshape(inputs, shape)
            squares = near(square(x), forward)

            def gradient(*args: Tensor, upstream: Tensor | None = None) -> Tensor:
                g = args[0] if upstream is None else upstream
                return returned(g, x, squares, near(spread(g, x, squares), backward))

            return scaled(x, squares), gradient

        return ops.reshape(normalise(ops.reshape(inputs if before is None else before, shape)), ops.shape(inputs))

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

    def is_fused(self, inputs: Tensor) -> bool:
        """Whether the fused kernel computes this input, which also keeps variances with Bessel's correction."""
        has_kernel = keras.backend.backend() == "tensorflow" and self.compute_dtype in ("float32", "bfloat16", "float16")
        return config.fast_kernels() and has_kernel and len(inputs.shape) == 4

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Tensor:
        if not self.is_fused(inputs) or mask is not None:
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        x = ops.cast(inputs, self.compute_dtype)
        kept = (self.gamma, self.beta, self.moving_mean, self.moving_variance)
        gamma, beta, *statistics = (tf.cast(variable.value, tf.float32) for variable in kept)
        learns = bool(training) and self.trainable
        mean, variance = (tf.zeros(0), tf.zeros(0)) if learns else statistics
        y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x, scale=gamma, offset=beta, mean=mean, variance=variance, epsilon=self.epsilon, is_training=learns
        )
        if learns:
            for moving, before, now in zip(kept[2:], statistics, (mean, variance), strict=True):
                moving.assign(before * self.momentum + now * (1 - self.momentum))
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


def pair(value: int | tuple[int, int] | list[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _convolved(x: Tensor, kernel: Tensor, strides: tuple[int, int], padding: Any, training: bool) -> Tensor | None:
    """The convolution in the way that is faster here than the direct one; None where none is."""
    return winograd.convolve(x, kernel) if winograd.suits(x, kernel, strides, padding, training) else None


def _with_bias(y: Tensor, bias: Tensor) -> Tensor:
    """What is no convolution of TensorFlow's own, and a bias for each channel.

    The bias stands first: of `add(y, bias)` Keras makes TensorFlow's `bias_add`, whose gradient on a processor is added up in
    y's type unless it is part of a convolution's. In bfloat16 that ends at 256 ones.
    """
    return ops.add(ops.convert_to_tensor(bias), y)


@keras.saving.register_keras_serializable(package=PACKAGE)
class Conv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` that is faster on a processor (`_convolved`); same arguments, outputs and weight files.

    Input: float (batch, height, width, channels), or as `data_format` says. Output: float (batch, new_height, new_width,
    filters).

    Example:
        >>> tuple(Conv2D(8, 3, padding="same")(keras.ops.ones((1, 13, 13, 4))).shape)
        (1, 13, 13, 8)
    """

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        plain = (self.data_format, self.dilation_rate, self.groups) == ("channels_last", (1, 1), 1)
        if not (plain and self.trainable):
            return super().call(inputs)
        kernel = ops.convert_to_tensor(self.kernel)
        y = _convolved(inputs, kernel, self.strides, self.padding, bool(training))
        if y is None:
            return super().call(inputs)
        if self.bias is not None:
            y = _with_bias(y, self.bias)
        return y if self.activation is None else self.activation(y)


@keras.saving.register_keras_serializable(package=PACKAGE)
class GroupedConv2D(keras.layers.Conv2D):
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
        All else as in `keras.layers.Conv2D`, without `data_format` (channels last) and `dilation_rate`.

    Raises ModelError where groups does not divide the channels or the filters.

    Example:
        >>> tuple(GroupedConv2D(256, 5, padding=2, groups=2)(keras.ops.ones((1, 27, 27, 96))).shape)
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
        **kwargs: Any,
    ) -> None:
        if groups < 1 or filters < 1 or filters % groups:
            raise ModelError(f"grouped convolution got {filters} filters in {groups} groups; groups must divide them")
        super().__init__(
            filters, pair(kernel_size), pair(strides), "valid", "channels_last", groups=groups, use_bias=use_bias, **kwargs
        )
        self.padding = explicit_padding(padding)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        channels = input_shape[-1]
        if channels is None or channels % self.groups:
            raise ModelError(f"grouped convolution got {channels} input channels; {self.groups} groups must divide them")
        super().build(input_shape)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        x, mode = inputs, self.padding
        if not isinstance(mode, str):
            # "same" spares a copy of the input where it means the same zeros.
            around = tuple(((size - 1) // 2, size // 2) for size in self.kernel_size)
            if mode == around and self.strides == (1, 1) and all(size % 2 for size in self.kernel_size):
                mode = "same"
            else:
                x, mode = ops.pad(x, ((0, 0), *mode, (0, 0))) if any(map(any, mode)) else x, "valid"
        kernel = ops.convert_to_tensor(self.kernel)
        if self.groups > 1 and kernel.shape[2] == 1 and self.strides[0] == self.strides[1]:
            return self._depthwise(x, kernel, mode)
        kernels = ops.split(kernel, self.groups, axis=-1)
        biases = [None] * self.groups if self.bias is None else ops.split(ops.convert_to_tensor(self.bias), self.groups)

        def convolved(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
            y = _convolved(x, kernel, self.strides, mode, bool(training)) if self.trainable else None
            if y is not None:
                return y if bias is None else _with_bias(y, bias)
            y = ops.conv(x, kernel, strides=self.strides, padding=mode, data_format="channels_last")
            return y if bias is None else ops.add(y, bias)

        # Each part by itself where channels do not matter to each other: TensorFlow then makes one kernel of convolution, bias
        # and ReLU.
        outputs = [convolved(*part) for part in zip(ops.split(x, self.groups, axis=-1), kernels, biases, strict=True)]
        alone = self.activation in (keras.activations.linear, keras.activations.relu)
        joined = training and self.trainable and self.groups > 1 and self.activation is keras.activations.relu
        if joined and fused.suits((*outputs[0].shape[1:3], self.filters), LARGE):
            return fused.relu_and_concatenate(outputs)
        if alone:
            outputs = [self.activation(y) for y in outputs]
        y = outputs[0] if self.groups == 1 else ops.concatenate(outputs, axis=-1)
        return y if alone else self.activation(y)

    def _depthwise(self, x: Tensor, kernel: Tensor, padding: str) -> Tensor:
        """With a group for each channel."""
        kernel = ops.reshape(kernel, (*self.kernel_size, self.groups, self.filters // self.groups))
        y = ops.depthwise_conv(x, kernel, strides=self.strides, padding=padding, data_format="channels_last")
        return self.activation(y if self.bias is None else _with_bias(y, self.bias))

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
        fixed = ("data_format", "dilation_rate")
        return {key: value for key, value in super().get_config().items() if key not in fixed}


@keras.saving.register_keras_serializable(package=PACKAGE)
class Dense(keras.layers.Dense):
    """`keras.layers.Dense` for a large kernel and a small batch; same arguments and weight files, outputs but for rounding.

    In float32 on a processor, TensorFlow multiplies a batch by the whole kernel at half the speed of a batch of products with
    `BLOCKS` blocks of its rows, and gradients by the transposed kernel at half the speed of the blocks by the transposed
    gradients; the kernel's gradient takes a third longer than its blocks'. As with convolutions that is for layers that are
    trained and for large batches, not for frozen ones.

    Input: float (batch, features); with more axes it is Keras' own. Output: float (batch, units).

    Example:
        >>> tuple(Dense(7)(keras.ops.ones((2, 4096))).shape)
        (2, 7)
    """

    BLOCKS = 4

    def quantize(self, mode: str | None = None, type_check: bool = True, config: Any = None) -> None:
        """As `keras.layers.Dense.quantize`, which refuses subclasses because it does not know what they compute."""
        super().quantize(mode, type_check=type_check and type(self) is not Dense, config=config)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        if self.lora_enabled:
            return super().call(inputs, training=training)
        rows, columns = self.kernel.shape
        large = rows * columns >= LARGE_KERNEL and rows % self.BLOCKS == 0 and len(inputs.shape) == 2
        used = self.trainable and (training or traced_in_batches())
        if not (large and used and self.compute_dtype == "float32" and fused.on_processor()):
            return super().call(inputs, training=training)

        @ops.custom_gradient
        def product(x: Tensor, kernel: Tensor) -> tuple[Tensor, Any]:
            blocks = ops.reshape(kernel, (self.BLOCKS, -1, columns))
            parts = ops.transpose(ops.reshape(x, (-1, *blocks.shape[:2])), (1, 0, 2))

            def gradient(*args: Tensor, upstream: Tensor | None = None) -> tuple[Tensor, Tensor]:
                g = args[0] if upstream is None else upstream
                dx = ops.matmul(blocks, ops.transpose(g)[None])
                dk = ops.matmul(ops.transpose(parts, (0, 2, 1)), g[None])
                return ops.transpose(ops.reshape(dx, (rows, -1))), ops.reshape(dk, (rows, columns))

            return ops.sum(ops.matmul(parts, blocks), axis=0), gradient

        # reshaped to what it is: a tensor, where TensorFlow would see a variable inside a function with its own gradient
        y = product(inputs, ops.reshape(self.kernel, self.kernel.shape))
        if self.bias is not None:
            y = ops.add(y, self.bias)
        return y if self.activation is None else self.activation(y)
