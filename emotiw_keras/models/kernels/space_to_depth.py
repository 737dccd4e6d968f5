"""Convolutions with strides over few channels as convolutions without, for a processor that multiplies bfloat16 in tiles (AMX).

A square of stride x stride pixels becomes one pixel of so many more channels, and the kernel, with zeros to its right and
below, likewise. The sums are the same; the tiles are filled, where one or three channels leave them all but empty. Elsewhere
the direct convolution is faster.
"""

from __future__ import annotations

from typing import Any

from emotiw_keras.hardware import bfloat16_tiles
from emotiw_keras.models.kernels.fused import on_processor

Tensor = Any
CHANNELS = 64
"""With more of them after the regrouping the direct convolution fills its tiles too."""


def suits(x: Tensor, kernel: Tensor, strides: tuple[int, int], padding: Any, training: bool) -> bool:
    """Whether `convolve` can take the place of this convolution and pays: training in bfloat16 with AMX on TensorFlow without a
    GPU, "valid", equal strides above 1, a known height and width, few channels."""
    stride = strides[0]
    return (
        on_processor()
        and training
        and padding == "valid"
        and strides == (stride, stride)
        and stride > 1
        and len(x.shape) == 4
        and None not in x.shape[1:]
        and x.dtype == kernel.dtype == "bfloat16"
        and x.shape[-1] * stride**2 <= CHANNELS
        and bfloat16_tiles()
    )


def convolve(x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    """The convolution of x, float (batch, height, width, channels), with kernel (rows, columns, channels, filters), "valid".

    Output: (batch, (height - rows) // stride + 1, (width - columns) // stride + 1, filters), of x's dtype. TensorFlow only.

    Example:
        >>> import keras
        >>> convolve(keras.ops.ones((2, 27, 27, 1)), keras.ops.ones((11, 11, 1, 8)), 4).shape
        TensorShape([2, 5, 5, 8])
    """
    import tensorflow as tf

    channels, filters = kernel.shape[2:]
    blocks = [-(-size // stride) for size in kernel.shape[:2]]
    used = [(size - k) // stride + b for size, k, b in zip(x.shape[1:3], kernel.shape[:2], blocks, strict=True)]
    # pixels behind the last output are left out, and where the widened kernel looks further there are zeros
    x = x[:, : used[0] * stride, : used[1] * stride]
    short = [[0, n * stride - size] for n, size in zip(used, x.shape[1:3], strict=True)]
    x = tf.reshape(tf.pad(x, [[0, 0], *short, [0, 0]]), (-1, used[0], stride, used[1], stride * channels))
    x = tf.reshape(tf.transpose(x, (0, 1, 3, 2, 4)), (-1, *used, stride**2 * channels))
    wider = [[0, b * stride - size] for b, size in zip(blocks, kernel.shape[:2], strict=True)]
    kernel = tf.reshape(tf.pad(kernel, [*wider, [0, 0], [0, 0]]), (blocks[0], stride, blocks[1], stride, channels, filters))
    kernel = tf.reshape(tf.transpose(kernel, (0, 2, 1, 3, 4, 5)), (*blocks, stride**2 * channels, filters))
    return tf.nn.conv2d(x, kernel, 1, "VALID")
