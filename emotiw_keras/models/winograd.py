"""3x3 convolution with less arithmetic, for training on a processor: Winograd's F(4x4, 3x3).

A tile of 4 x 4 outputs needs 36 multiplications of channel by channel instead of 144. The steps around the products are two
small products with constant matrices and a gathering of rows, so the whole is matrix products.

It is rounded a little otherwise than the direct convolution (float32: a few parts in a million; bfloat16: 1.3 % of the outputs'
size in place of 0.2 %), so only layers that are being trained use it: evaluation, prediction, frozen layers and exported
models convolve directly.

Source: Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", section 4; the points 0, +-3/4, +-3/2 in
place of their 0, +-1, +-2 halve the error in bfloat16.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

Tensor = Any
POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)
TILE, KERNEL = 4, 3
SPAN = TILE + KERNEL - 1
# With fewer channels the steps around the products take what the products save.
CHANNELS = 64


def _at_points(terms: int) -> np.ndarray:
    """(6, terms): a polynomial's values at `POINTS` and its leading coefficient, from its coefficients."""
    return np.vstack([np.power.outer(np.array(POINTS), np.arange(terms)), np.eye(terms)[-1:]])


def _matrices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs (36, 36), kernel (36, 9) and outputs (16, 36): each takes a flattened square to the points, or from them."""
    inputs, kernel, outputs = np.linalg.inv(_at_points(SPAN)).T, _at_points(KERNEL), _at_points(TILE)
    # Powers of two, which cancel: rows of about the same size.
    scale = 2.0 ** np.round(np.log2(np.abs(inputs).max(axis=1, keepdims=True)))
    inputs, kernel = inputs / scale, kernel * scale
    return tuple(np.kron(m, m).astype("float32") for m in (inputs, kernel, outputs.T))  # type: ignore[return-value]


INPUTS, KERNELS, OUTPUTS = _matrices()


@dataclass(frozen=True)
class _Axis:
    """Images side by side along one axis with a line of zeros between them, cut into tiles: 13 lines alone need 4 tiles of 4,
    twice 13 need 7. Images that share a tile share its rounding, no more."""

    size: int
    images: int

    @property
    def tiles(self) -> int:
        return -(-(self.images * (self.size + 1) - 1) // TILE)

    def place(self, line: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which image and which of its lines each line is, and whether it is one at all."""
        image, own = np.divmod(line, self.size + 1)
        return image, own, (line >= 0) & (image < self.images) & (own < self.size)


def _axis(size: int) -> _Axis:
    return min((_Axis(size, images) for images in (1, 2, 4)), key=lambda axis: axis.tiles / axis.images)


@dataclass(frozen=True)
class _Sheet:
    """Where the pixels of a sheet of images lie in its tiles."""

    images: int
    tiles: int
    inputs: np.ndarray  # (36, tiles): pixel of the sheet, or -1 for a zero
    outputs: np.ndarray  # (16, tiles): the same
    pixels: np.ndarray  # (images * height * width, 2): place within the tile, tile


@functools.lru_cache(maxsize=64)
def _sheet(height: int, width: int) -> _Sheet:
    rows, columns = _axis(height), _axis(width)

    def pixel(span: int, margin: int) -> np.ndarray:
        def lines(axis: _Axis) -> np.ndarray:
            return TILE * np.arange(axis.tiles)[None, :] + np.arange(span)[:, None] - margin

        top, y, inside = (p[:, None, :, None] for p in rows.place(lines(rows)))
        left, x, within = (p[None, :, None, :] for p in columns.place(lines(columns)))
        index = ((top * columns.images + left) * height + y) * width + x
        return np.where(inside & within, index, -1).reshape(span * span, -1).astype("int32")

    outputs = pixel(TILE, 0)
    place, tile = np.nonzero(outputs >= 0)
    pixels = np.stack([place, tile], axis=1)[np.argsort(outputs[place, tile])].astype("int32")
    return _Sheet(rows.images * columns.images, outputs.shape[1], pixel(SPAN, KERNEL // 2), outputs, pixels)


def suits(x: Tensor, kernel: Tensor, strides: tuple[int, int], padding: Any) -> bool:
    """Whether `convolve` can take the place of this convolution and pays: TensorFlow without a GPU, 3x3, stride 1, "same",
    float32 or bfloat16, a known height and width, and at least `CHANNELS` channels in and out."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    height, width, filters = kernel.shape[0], kernel.shape[1], kernel.shape[-1]
    return (
        (height, width, *strides, padding) == (KERNEL, KERNEL, 1, 1, "same")
        and len(x.shape) == 4
        and None not in x.shape[1:]
        and x.dtype == kernel.dtype
        and x.dtype in (tf.float32, tf.bfloat16)
        and min(x.shape[-1], filters) >= CHANNELS
        and not tf.config.list_logical_devices("GPU")
    )


def convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """The 3x3 convolution of x, (batch, height, width, channels), with kernel, (3, 3, channels, filters), stride 1, "same".

    Output: (batch, height, width, filters), of x's dtype. On TensorFlow only; see `suits`.

    Example:
        >>> convolve(keras.ops.ones((2, 13, 13, 8)), keras.ops.ones((3, 3, 8, 4))).shape
        TensorShape([2, 13, 13, 4])
    """
    import tensorflow as tf

    height, width, channels = x.shape[1:]
    filters, dtype = kernel.shape[-1], x.dtype
    sheet = _sheet(height, width)
    area = height * width
    batch = tf.shape(x)[0]
    sheets = -(-batch // sheet.images)

    def gathered(images: Tensor, table: np.ndarray, depth: int) -> Tensor:
        """(places of a tile, sheets * tiles * depth): the pixels of each tile, zeros around the images."""
        index = table[:, None, :] + (tf.range(sheets) * (sheet.images * area))[None, :, None]
        index = tf.where((table[:, None, :] < 0) | (index >= batch * area), batch * area, index)
        pixels = tf.concat([tf.reshape(images, (-1, depth)), tf.zeros((1, depth), dtype)], axis=0)
        return tf.reshape(tf.gather(pixels, tf.reshape(index, (-1,))), (len(table), -1))

    def product(matrix: np.ndarray, values: Tensor) -> Tensor:
        return tf.matmul(tf.constant(matrix, values.dtype), values)

    def at_points(images: Tensor, depth: int) -> Tensor:
        return tf.reshape(product(INPUTS, gathered(images, sheet.inputs, depth)), (SPAN**2, -1, depth))

    def kernel_at_points(matrix: np.ndarray, kernel: Tensor) -> Tensor:
        return tf.reshape(product(matrix, tf.reshape(kernel, (KERNEL**2, -1))), (SPAN**2, channels, filters))

    def from_points(values: Tensor, depth: int) -> Tensor:
        tiles = tf.reshape(product(OUTPUTS, tf.reshape(values, (SPAN**2, -1))), (-1, depth))
        place, tile = sheet.pixels[:, 0], sheet.pixels[:, 1]
        index = (place * sheet.tiles)[None] * sheets + tile[None] + (tf.range(sheets) * sheet.tiles)[:, None]
        return tf.reshape(tf.gather(tiles, tf.reshape(index, (-1,))[: batch * area]), (-1, height, width, depth))

    @tf.custom_gradient
    def run(x: Tensor, kernel: Tensor) -> tuple[Tensor, Any]:
        points = at_points(x, channels)

        def gradient(dy: Tensor) -> tuple[Tensor, Tensor]:
            # of the inputs: a convolution of dy with the kernel turned half round, its channels and filters exchanged
            turned = kernel_at_points(np.ascontiguousarray(KERNELS[:, ::-1]), kernel)
            dx = from_points(tf.matmul(at_points(dy, filters), turned, transpose_b=True), channels)
            # of the kernel: the transposed steps from the outputs back to the kernel
            back = product(np.ascontiguousarray(OUTPUTS.T), gathered(dy, sheet.outputs, filters))
            sums = tf.matmul(points, tf.reshape(back, (SPAN**2, -1, filters)), transpose_a=True)
            dk = product(np.ascontiguousarray(KERNELS.T), tf.reshape(sums, (SPAN**2, -1)))
            return dx, tf.reshape(dk, (KERNEL, KERNEL, channels, filters))

        return from_points(tf.matmul(points, kernel_at_points(KERNELS, kernel)), filters), gradient

    # reshaped to what it is: a tensor, where TensorFlow would see a variable inside a function with its own gradient
    return run(x, tf.reshape(kernel, kernel.shape))
