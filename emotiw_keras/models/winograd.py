"""3x3 and 5x5 convolutions with less arithmetic, for a processor: Winograd's F(4x4, 3x3) and F(4x4, 5x5).

A tile of 4 x 4 outputs needs 36 multiplications of channel by channel instead of 144, with a 5x5 kernel 64 instead of 400. The
steps around the products are small products with constant matrices and a gathering of rows: the whole is matrix products.

It is rounded a little otherwise than the direct convolution: in float32 by a few parts in a million, in bfloat16 with a 3x3
kernel by 1.3 % of the outputs' size in place of 0.2 % (with a 5x5 kernel by 6 %: that is left to the direct one). Hence layers
that are being trained use it, and in float32 alone the batches of evaluation and prediction (`in_batches`). Frozen layers,
whose features may be kept, single faces and exported models convolve directly; so does bfloat16 where the processor multiplies
it in tiles (AMX), so fast that the steps around the products would take what they save.

Source: Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", section 4; for 3x3 kernels the points 0,
+-3/4, +-3/2 in place of their 0, +-1, +-2 halve the error in bfloat16.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from emotiw_keras.hardware import bfloat16_tiles
from emotiw_keras.models.fused import on_processor
from emotiw_keras.models.large_batches import traced_in_batches

Tensor = Any
TILE = 4
# For each size of kernel; the point at infinity comes on top.
POINTS = {3: (0.0, 0.75, -0.75, 1.5, -1.5), 5: (0.0, 0.5, -0.5, 1.0, -1.0, 2.0, -2.0)}
DTYPES = {3: ("float32", "bfloat16"), 5: ("float32",)}
# With 5x5 kernels a batch is taken in parts of about so many bytes at the points, which stay in the processor's cache; with 3x3
# ones that saves nothing: there are fewer points, and more channels for the kernel to bring in with each part.
PART_BYTES = 5 << 20
# With fewer channels the steps around the products take what the products save.
CHANNELS = {3: 64, 5: 48}


def _at_points(size: int, terms: int) -> np.ndarray:
    """(points, terms): a polynomial's values at the points and its leading coefficient, from its coefficients."""
    return np.vstack([np.power.outer(np.array(POINTS[size]), np.arange(terms)), np.eye(terms)[-1:]])


@functools.cache
def _matrices(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For kernels of size x size and p points a side: inputs (p^2, p^2), kernel (p^2, size^2) and outputs (16, p^2). Each takes
    a flattened square to the points, or from them."""
    inputs, kernel, outputs = (_at_points(size, terms) for terms in (TILE + size - 1, size, TILE))
    inputs = np.linalg.inv(inputs).T
    # Powers of two, which cancel: rows of about the same size.
    scale = 2.0 ** np.round(np.log2(np.abs(inputs).max(axis=1, keepdims=True)))
    inputs, kernel = inputs / scale, kernel * scale
    return tuple(np.kron(m, m).astype("float32") for m in (inputs, kernel, outputs.T))  # type: ignore[return-value]


@dataclass(frozen=True)
class _Axis:
    """Images side by side along one axis with `gap` lines of zeros between them, cut into tiles: 13 lines alone need 4 tiles
    of 4, twice 13 need 7. Images that share a tile share its rounding, no more."""

    size: int
    images: int
    gap: int

    @property
    def tiles(self) -> int:
        return -(-(self.images * (self.size + self.gap) - self.gap) // TILE)

    def place(self, span: int, margin: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the lines of each tile, (span, tiles): which image and which of its lines it is, and whether it is one at all."""
        line = TILE * np.arange(self.tiles)[None, :] + np.arange(span)[:, None] - margin
        image, own = np.divmod(line, self.size + self.gap)
        return image, own, (line >= 0) & (image < self.images) & (own < self.size)


def _axis(size: int, gap: int) -> _Axis:
    return min((_Axis(size, images, gap) for images in (1, 2, 4)), key=lambda axis: axis.tiles / axis.images)


@dataclass(frozen=True)
class _Sheet:
    """Where the pixels of a sheet of images lie in its tiles."""

    images: int
    tiles: int
    inputs: np.ndarray  # (points^2, tiles): pixel of the sheet, or -1 for a zero
    outputs: np.ndarray  # (16, tiles): the same
    pixels: np.ndarray  # (images * height * width, 2): place within the tile, tile


@functools.lru_cache(maxsize=64)
def _sheet(height: int, width: int, size: int) -> _Sheet:
    margin = size // 2
    rows, columns = _axis(height, margin), _axis(width, margin)

    def pixel(span: int, before: int) -> np.ndarray:
        """(span^2, tiles): the pixel under each place of each tile that starts `before` lines early, or -1."""
        top, y, inside = (p[:, None, :, None] for p in rows.place(span, before))
        left, x, within = (p[None, :, None, :] for p in columns.place(span, before))
        index = ((top * columns.images + left) * height + y) * width + x
        return np.where(inside & within, index, -1).reshape(span * span, -1).astype("int32")

    outputs = pixel(TILE, 0)
    place, tile = np.nonzero(outputs >= 0)
    pixels = np.stack([place, tile], axis=1)[np.argsort(outputs[place, tile])].astype("int32")
    return _Sheet(rows.images * columns.images, outputs.shape[1], pixel(TILE + 2 * margin, margin), outputs, pixels)


def suits(x: Tensor, kernel: Tensor, strides: tuple[int, int], padding: Any, training: bool) -> bool:
    """Whether `convolve` can take the place of this convolution and pays: TensorFlow without a GPU, 3x3 or 5x5, stride 1,
    "same", a known height and width, the channels (in and out) and types above, bfloat16 without AMX; in training, or
    `in_batches` and in float32."""
    size, filters = kernel.shape[0], kernel.shape[-1]
    return (
        on_processor()
        and (training or (traced_in_batches() and x.dtype.name == "float32"))
        and size in POINTS
        and (kernel.shape[1], *strides, padding) == (size, 1, 1, "same")
        and len(x.shape) == 4
        and None not in x.shape[1:]
        and x.dtype == kernel.dtype
        and x.dtype.name in DTYPES[size]
        and not (x.dtype.name == "bfloat16" and bfloat16_tiles())
        and min(x.shape[-1], filters) >= CHANNELS[size]
    )


def convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """The convolution of x, float (batch, height, width, channels), with kernel (size, size, channels, filters), where size is
    3 or 5; stride 1, "same". Its gradients take the same way.

    Output: (batch, height, width, filters), of x's dtype. On TensorFlow only; see `suits`.

    Example:
        >>> import keras
        >>> convolve(keras.ops.ones((2, 13, 13, 8)), keras.ops.ones((3, 3, 8, 4))).shape
        TensorShape([2, 13, 13, 4])
    """
    import tensorflow as tf

    height, width, channels = x.shape[1:]
    filters, dtype = kernel.shape[-1], x.dtype
    size = kernel.shape[0]
    to_inputs, to_kernel, to_outputs = _matrices(size)
    points = len(to_inputs)
    sheet = _sheet(height, width, size)
    area = height * width

    def sheets(batch: Tensor) -> Tensor:
        return -(-batch // sheet.images)

    def gathered(images: Tensor, table: np.ndarray, depth: int) -> Tensor:
        """(places of a tile, sheets * tiles * depth): the pixels of each tile, zeros around the images."""
        batch = tf.shape(images)[0]
        index = table[:, None, :] + (tf.range(sheets(batch)) * (sheet.images * area))[None, :, None]
        index = tf.where((table[:, None, :] < 0) | (index >= batch * area), batch * area, index)
        pixels = tf.concat([tf.reshape(images, (-1, depth)), tf.zeros((1, depth), dtype)], axis=0)
        return tf.reshape(tf.gather(pixels, tf.reshape(index, (-1,))), (len(table), -1))

    def product(matrix: np.ndarray, values: Tensor) -> Tensor:
        return tf.matmul(tf.constant(np.ascontiguousarray(matrix), values.dtype), values)

    def at_points(images: Tensor, depth: int) -> Tensor:
        return tf.reshape(product(to_inputs, gathered(images, sheet.inputs, depth)), (points, -1, depth))

    def kernel_at_points(matrix: np.ndarray, kernel: Tensor) -> Tensor:
        return tf.reshape(product(matrix, tf.reshape(kernel, (size**2, -1))), (points, channels, filters))

    def from_points(values: Tensor, batch: Tensor, depth: int) -> Tensor:
        tiles = tf.reshape(product(to_outputs, tf.reshape(values, (points, -1))), (-1, depth))
        place, tile = sheet.pixels[:, 0], sheet.pixels[:, 1]
        count = sheets(batch)
        index = (place * sheet.tiles)[None] * count + tile[None] + (tf.range(count) * sheet.tiles)[:, None]
        return tf.reshape(tf.gather(tiles, tf.reshape(index, (-1,))[: batch * area]), (-1, height, width, depth))

    def forward(x: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
        """The inputs at the points, which the way back needs, and the outputs."""
        taken = at_points(x, channels)
        return taken, from_points(tf.matmul(taken, kernel), tf.shape(x)[0], filters)

    def backward(taken: Tensor, dy: Tensor, turned: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of the inputs and of the kernel at the points."""
        # of the inputs: a convolution of dy with the kernel turned half round, its channels and filters exchanged
        dx = from_points(tf.matmul(at_points(dy, filters), turned, transpose_b=True), tf.shape(dy)[0], channels)
        # of the kernel: the transposed steps from the outputs back to the kernel
        back = product(to_outputs.T, gathered(dy, sheet.outputs, filters))
        return dx, tf.matmul(taken, tf.reshape(back, (points, -1, filters)), transpose_a=True)

    part = max(1, PART_BYTES // (points * sheet.tiles * channels * dtype.size)) * sheet.images

    def forward_in_parts(x: Tensor, kernel: Tensor) -> tuple[Any, Tensor]:
        def step(i: Tensor, taken: Any, outputs: Any) -> tuple[Tensor, Any, Any]:
            new, y = forward(x[i * part : (i + 1) * part], kernel)
            return i + 1, taken.write(i, new), outputs.write(i, y)

        count = -(-tf.shape(x)[0] // part)
        arrays = _array(dtype, count, (points, None, channels)), _array(dtype, count, (None, height, width, filters))
        _, taken, outputs = tf.while_loop(lambda i, *_: i < count, step, (0, *arrays))
        return taken, outputs.concat()

    def backward_in_parts(taken: Any, dy: Tensor, turned: Tensor) -> tuple[Tensor, Tensor]:
        def step(i: Tensor, inputs: Any, sums: Tensor) -> tuple[Tensor, Any, Tensor]:
            dx, more = backward(taken.read(i), dy[i * part : (i + 1) * part], turned)
            return i + 1, inputs.write(i, dx), sums + more

        count = -(-tf.shape(dy)[0] // part)
        start = _array(dtype, count, (None, height, width, channels)), tf.zeros((points, channels, filters), dtype)
        _, inputs, sums = tf.while_loop(lambda i, *_: i < count, step, (0, *start))
        return inputs.concat(), sums

    outputs_of, gradients_of = (forward_in_parts, backward_in_parts) if size == 5 else (forward, backward)

    @tf.custom_gradient
    def run(x: Tensor, kernel: Tensor) -> tuple[Tensor, Any]:
        taken, y = outputs_of(x, kernel_at_points(to_kernel, kernel))

        def gradient(dy: Tensor) -> tuple[Tensor, Tensor]:
            dx, sums = gradients_of(taken, dy, kernel_at_points(to_kernel[:, ::-1], kernel))
            dk = product(to_kernel.T, tf.reshape(sums, (points, -1)))
            return dx, tf.reshape(dk, (size, size, channels, filters))

        return y, gradient

    # reshaped to what it is: a tensor, where TensorFlow would see a variable inside a function with its own gradient
    return run(x, tf.reshape(kernel, kernel.shape))


def _array(dtype: Any, count: Tensor, shape: tuple[int | None, ...]) -> Any:
    """What the steps of a loop write to: `count` tensors that differ in the length that is None."""
    import tensorflow as tf

    return tf.TensorArray(dtype, count, infer_shape=False, element_shape=shape, clear_after_read=False)
