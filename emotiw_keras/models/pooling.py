"""Poolings that stock Keras lacks: Caffe's, which rounds up, and torchvision's adaptive mean."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from emotiw_keras.errors import ModelError
from emotiw_keras.keras_names import PACKAGE
from emotiw_keras.models.layers import Tensor


@keras.saving.register_keras_serializable(package=PACKAGE)
class CaffeMaxPooling2D(keras.layers.Layer):
    """Max pooling that rounds the output size up, as Caffe does, its last windows cut off at the image's edge.

    Output size is `ceil((size - pool_size) / strides) + 1`. Where that is known to equal plain pooling nothing is padded.

    Input: float (batch, height, width, channels), height and width at least `pool_size`.
    Raises ModelError for smaller ones that are known. Source: Caffe `pooling_layer.cpp`.

    Example:
        >>> tuple(CaffeMaxPooling2D(3, 2)(keras.ops.ones((1, 26, 26, 256))).shape)
        (1, 13, 13, 256)
    """

    def __init__(self, pool_size: int, strides: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 1 <= strides <= pool_size:
            raise ModelError(f"max pooling got pool_size={pool_size}, strides={strides}; strides must be 1 to pool_size")
        self.pool_size = pool_size
        self.strides = strides

    def _output_size(self, size: int | None) -> int | None:
        if size is None:
            return None
        if size < self.pool_size:
            raise ModelError(f"max pooling with windows of {self.pool_size} got a size of {size}: give larger images")
        return -(-(size - self.pool_size) // self.strides) + 1

    def call(self, inputs: Tensor) -> Tensor:
        x, size, stride = inputs, self.pool_size, self.strides
        # where the size is not known: as much as there can be, of which plain pooling leaves out what is too much
        outputs = [(n, self._output_size(n)) for n in inputs.shape[1:3]]
        short = [stride - 1 if out is None else max(0, (out - 1) * stride + size - n) for n, out in outputs]
        if any(short):
            x = ops.pad(x, ((0, 0), (0, short[0]), (0, short[1]), (0, 0)), constant_values=float("-inf"))
        return ops.max_pool(x, size, stride, padding="valid", data_format="channels_last")

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        height, width = (self._output_size(n) for n in input_shape[1:3])
        return (input_shape[0], height, width, input_shape[3])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "pool_size": self.pool_size, "strides": self.strides}


def window_means(size: int, out: int) -> np.ndarray:
    """The (out, size) matrix whose row i takes the mean of elements floor(i size / out) to ceil((i + 1) size / out)."""
    matrix = np.zeros((out, size), "float32")
    for i in range(out):
        start, stop = i * size // out, -(-(i + 1) * size // out)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix


@keras.saving.register_keras_serializable(package=PACKAGE)
class AdaptiveMeanPooling2D(keras.layers.Layer):
    """Means over windows that make the output `size` x `size`, whatever the input's size; smaller inputs are repeated.

    `keras.layers.AdaptiveAveragePooling2D` fails on TensorFlow where the input is smaller than the output.

    Input: float (batch, height, width, channels), height and width known. Output: float (batch, size, size, channels).
    Source: PyTorch `AdaptiveAvgPool2d`.

    Example:
        >>> tuple(AdaptiveMeanPooling2D(6)(keras.ops.ones((1, 7, 1, 256))).shape)
        (1, 6, 6, 256)
    """

    def __init__(self, size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if size < 1:
            raise ModelError(f"adaptive pooling got size={size}, expected at least 1")
        self.size = size

    def call(self, inputs: Tensor) -> Tensor:
        height, width = inputs.shape[1:3]
        if (height, width) == (self.size, self.size):
            return inputs
        rows, columns = (ops.convert_to_tensor(window_means(n, self.size), self.compute_dtype) for n in (height, width))
        return ops.einsum("ih,jw,bhwc->bijc", rows, columns, inputs)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], self.size, self.size, input_shape[3])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "size": self.size}
