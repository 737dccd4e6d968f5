"""Convolutions of small images whose gradient to the kernel is taken of several images side by side, for a processor that
multiplies bfloat16 in tiles (AMX).

The kernel's gradient sums over the pixels of a row, which fill tiles of 32: a row of 13 leaves more than half of one empty.
Two images with a column of zeros between them make a row of 27. The sums are the same. All else is the direct convolution.
"""

from __future__ import annotations

from typing import Any

from emotiw_keras.hardware import bfloat16_tiles
from emotiw_keras.models.kernels.fused import on_processor

Tensor = Any
ROW = 28
"""Images are put side by side as far as they fit into so many pixels, their zeros included."""


def suits(x: Tensor, kernel: Tensor, strides: tuple[int, int], padding: Any, training: bool) -> bool:
    """Whether `convolve` can take the place of this convolution and pays: training in bfloat16 with AMX on TensorFlow without a
    GPU, 3x3, stride 1, "same", two images or more in a row."""
    return (
        on_processor()
        and training
        and (*kernel.shape[:2], *strides, padding) == (3, 3, 1, 1, "same")
        and len(x.shape) == 4
        and None not in x.shape[1:]
        and 2 * (x.shape[2] + 1) <= ROW
        and x.dtype == kernel.dtype == "bfloat16"
        and bfloat16_tiles()
    )


def convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """The convolution of x, float (batch, height, width, channels), with kernel (3, 3, channels, filters), "same", stride 1.

    Output: (batch, height, width, filters), of x's dtype. On TensorFlow only; see `suits`.

    Example:
        >>> import keras
        >>> convolve(keras.ops.ones((2, 13, 13, 8)), keras.ops.ones((3, 3, 8, 4))).shape
        TensorShape([2, 13, 13, 4])
    """
    import tensorflow as tf

    height, width = x.shape[1:3]
    in_a_row = ROW // (width + 1)
    how: dict[str, Any] = {"strides": [1, 1, 1, 1], "padding": "SAME"}

    def to_kernel(x: Tensor, dy: Tensor) -> Tensor:
        return tf.raw_ops.Conv2DBackpropFilter(input=x, filter_sizes=kernel.shape, out_backprop=dy, **how)

    def rows(images: Tensor, count: Tensor) -> Tensor:
        gap = tf.zeros((count, height, 1, images.shape[-1]), images.dtype)
        parts = [each for i in range(in_a_row) for each in (gap, images[i * count : (i + 1) * count])]
        return tf.concat(parts[1:], axis=2)

    @tf.custom_gradient
    def run(x: Tensor, kernel: Tensor) -> tuple[Tensor, Any]:
        def gradient(dy: Tensor) -> tuple[Tensor, Tensor]:
            dx = tf.raw_ops.Conv2DBackpropInput(input_sizes=tf.shape(x), filter=kernel, out_backprop=dy, **how)
            count = tf.shape(x)[0] // in_a_row
            rest = count * in_a_row
            return dx, to_kernel(rows(x, count), rows(dy, count)) + to_kernel(x[rest:], dy[rest:])

        return tf.nn.conv2d(x, kernel, 1, "SAME"), gradient

    # reshaped to what it is: a tensor, where TensorFlow would see a variable inside a function with its own gradient
    return run(x, tf.reshape(kernel, kernel.shape))
