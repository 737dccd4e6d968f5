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
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from emotiw_keras.hardware import bfloat16_tiles
from emotiw_keras.models.kernels.fused import on_processor
from emotiw_keras.models.kernels.large_batches import traced_in_batches

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
def _from_kernel(size: int) -> tuple[np.ndarray, np.ndarray]:
    """(points, size), from a line of the kernel to the points, and what its rows were multiplied by, (points,)."""
    terms = TILE + size - 1
    inputs = np.linalg.inv(_at_points(size, terms)).T
    # Powers of two, which cancel: rows of about the same size.
    scale = 2.0 ** np.round(np.log2(np.abs(inputs).max(axis=1)))
    return _at_points(size, size) * scale[:, None], scale


@dataclass(frozen=True)
class _Tiles:
    """Tiles along one axis of an image of `length` lines: `count` of `outputs` lines each from line `start` on, by the products
    at `points`, as many as the lines that a tile sees."""

    length: int
    size: int
    start: int
    count: int
    outputs: int
    points: tuple[int, ...]

    def lines(self, span: int, margin: int) -> np.ndarray:
        """(span, tiles): the lines of the image under each tile that starts `margin` lines early, -1 outside."""
        line = self.start + self.outputs * np.arange(self.count)[None, :] + np.arange(span)[:, None] - margin
        return np.where((line >= 0) & (line < self.length), line, -1)

    def to_inputs(self) -> np.ndarray:
        """(points, lines seen): from pixels to the points."""
        points = list(self.points)
        return np.linalg.inv(_at_points(self.size, len(points))[points]).T / _from_kernel(self.size)[1][points, None]

    def to_outputs(self) -> np.ndarray:
        """(points, outputs): from the points to pixels, transposed."""
        return _at_points(self.size, self.outputs)[list(self.points)]


def _axis(length: int, size: int) -> list[_Tiles]:
    """Tiles of 4 lines and one of what remains, or all of fewer lines where that takes as few products: 6 lines are 3 and 3.

    Tiles of fewer lines need fewer points, which are among those of 4, so that all share the kernel at the points. No tile
    holds lines of two images, which would share their rounding, and NaN.
    """

    def tiles(start: int, count: int, outputs: int) -> _Tiles:
        points = tuple(range(TILE + size - 1))
        if outputs < TILE:  # the point at infinity, the last, gives the highest power; one output needs none
            points = points[: size + outputs - 2] + points[-1:] if outputs > 1 else points[:size]
        return _Tiles(length, size, start, count, outputs, points)

    def products(ways: list[_Tiles]) -> int:
        return sum(way.count * len(way.points) for way in ways)

    ways = [[tiles(0, -(-length // outputs), outputs)] for outputs in range(TILE, 0, -1)]
    whole, rest = divmod(length, TILE)
    if whole and 0 < rest < TILE - 1:  # a tile of 3 would save one point
        ways.append([tiles(0, whole, TILE), tiles(whole * TILE, 1, rest)])
    return min(ways, key=products)


@dataclass(frozen=True)
class _Kind:
    """Tiles of one shape."""

    tiles: int
    points: slice  # of those of the kernel
    inputs: np.ndarray  # (pixels seen, tiles): pixel of the image, or -1 for a zero
    outputs: np.ndarray  # (pixels put out, tiles): the same
    to_inputs: np.ndarray  # (points, pixels seen)
    to_outputs: np.ndarray  # (pixels put out, points)


@functools.lru_cache(maxsize=64)
def _plan(height: int, width: int, size: int) -> tuple[np.ndarray, tuple[_Kind, ...]]:
    """From a kernel to the points, (points, size^2), and the kinds of tiles of images of height x width, the largest first."""
    rows, columns = _axis(height, size), _axis(width, size)

    # Ordered so that the points of every kind are one slice: those of the last rows alone, of both, of the last columns alone.
    def place(point: tuple[int, int]) -> int:
        last = point[0] in rows[-1].points, point[1] in columns[-1].points
        return ((True, False), (True, True), (False, True), (False, False)).index(last)

    points = sorted(itertools.product(rows[0].points, columns[0].points), key=place)

    def pixels(row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """(lines of a tile squared, tiles): the pixel in row and column, -1 where either is outside."""
        y, x = row[:, None, :, None], column[None, :, None, :]
        return np.where((y >= 0) & (x >= 0), y * width + x, -1).reshape(len(row) * len(column), -1).astype("int32")

    def kind(row: _Tiles, column: _Tiles) -> _Kind:
        own = [n for n, (i, j) in enumerate(points) if i in row.points and j in column.points]
        at = [(row.points.index(i), column.points.index(j)) for i, j in (points[n] for n in own)]

        def both(of_row: np.ndarray, of_column: np.ndarray) -> np.ndarray:
            return np.stack([np.kron(of_row[i], of_column[j]) for i, j in at]).astype("float32")

        seen = row.lines(len(row.points), size // 2), column.lines(len(column.points), size // 2)
        return _Kind(
            tiles=row.count * column.count,
            points=slice(own[0], own[-1] + 1),
            inputs=pixels(*seen),
            outputs=pixels(row.lines(row.outputs, 0), column.lines(column.outputs, 0)),
            to_inputs=both(row.to_inputs(), column.to_inputs()),
            to_outputs=np.ascontiguousarray(both(row.to_outputs(), column.to_outputs()).T),
        )

    line, _ = _from_kernel(size)
    from_kernel = np.stack([np.kron(line[i], line[j]) for i, j in points]).astype("float32")
    return from_kernel, tuple(kind(row, column) for row in rows for column in columns)


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
    from_kernel, kinds = _plan(height, width, size)
    area = height * width

    def flat(images: Tensor, depth: int) -> Tensor:
        """(batch * area + 1, depth): the pixels, and a zero."""
        return tf.concat([tf.reshape(images, (-1, depth)), tf.zeros((1, depth), dtype)], axis=0)

    def gathered(pixels: Tensor, table: np.ndarray, depth: int) -> Tensor:
        """(places of a tile, batch * tiles * depth): the pixels of each tile, zeros around the images."""
        images = (tf.shape(pixels)[0] - 1) // area
        index = table[:, None, :] + (tf.range(images) * area)[None, :, None]
        index = tf.where(table[:, None, :] < 0, images * area, index)
        return tf.reshape(tf.gather(pixels, tf.reshape(index, (-1,))), (len(table), -1))

    def product(matrix: np.ndarray, values: Tensor) -> Tensor:
        return tf.matmul(tf.constant(np.ascontiguousarray(matrix), values.dtype), values)

    def at_points(images: Tensor, depth: int) -> list[Tensor]:
        """For each kind (points, batch * tiles, depth)."""
        pixels = flat(images, depth)
        return [
            tf.reshape(product(kind.to_inputs, gathered(pixels, kind.inputs, depth)), (len(kind.to_inputs), -1, depth))
            for kind in kinds
        ]

    def kernel_at_points(matrix: np.ndarray, kernel: Tensor) -> Tensor:
        return tf.reshape(product(matrix, tf.reshape(kernel, (size**2, -1))), (len(matrix), channels, filters))

    def from_points(values: list[Tensor], batch: Tensor, depth: int) -> Tensor:
        images = None
        for kind, value in zip(kinds, values, strict=True):
            tiles = tf.reshape(product(kind.to_outputs, tf.reshape(value, (len(kind.to_inputs), -1))), (-1, depth))
            place, tile = np.nonzero(kind.outputs >= 0)
            pixel = kind.outputs[place, tile]
            if images is None:  # the pixels of other kinds are written over what stands in their place
                first = np.zeros((area, 2), "int32")
                first[pixel] = np.stack([place, tile], axis=1)
                place, tile = first.T
            place, tile = place.astype("int32"), tile.astype("int32")
            each = tf.range(batch)[:, None]
            index = tf.reshape(((place * kind.tiles)[None] * batch) + tile[None] + each * kind.tiles, (-1,))
            found = tf.gather(tiles, index)
            if images is None:
                images = found
            else:
                where = tf.reshape(pixel[None] + each * area, (-1, 1))
                images = tf.tensor_scatter_nd_update(images, where, found)
        return tf.reshape(images, (-1, height, width, depth))

    def forward(x: Tensor, kernel: Tensor) -> tuple[list[Tensor], Tensor]:
        """The inputs at the points, which the way back needs, and the outputs."""
        taken = at_points(x, channels)
        values = [tf.matmul(part, kernel[kind.points]) for kind, part in zip(kinds, taken, strict=True)]
        return taken, from_points(values, tf.shape(x)[0], filters)

    def backward(taken: list[Tensor], dy: Tensor, turned: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The gradients of the inputs, and of the kernel at the points for each kind."""
        # of the inputs: a convolution of dy with the kernel turned half round, its channels and filters exchanged
        there = zip(kinds, at_points(dy, filters), strict=True)
        values = [tf.matmul(part, turned[kind.points], transpose_b=True) for kind, part in there]
        dx = from_points(values, tf.shape(dy)[0], channels)
        # of the kernel: the transposed steps from the outputs back to the kernel
        pixels = flat(dy, filters)
        back = [product(kind.to_outputs.T, gathered(pixels, kind.outputs, filters)) for kind in kinds]
        sums = [
            tf.matmul(part, tf.reshape(each, (len(kind.to_inputs), -1, filters)), transpose_a=True)
            for kind, part, each in zip(kinds, taken, back, strict=True)
        ]
        return dx, sums

    per_image = sum(len(kind.to_inputs) * kind.tiles for kind in kinds) * channels * dtype.size
    part = max(1, PART_BYTES // per_image)

    def forward_in_parts(x: Tensor, kernel: Tensor) -> tuple[list[Any], Tensor]:
        def step(i: Tensor, taken: list[Any], outputs: Any) -> tuple[Tensor, list[Any], Any]:
            new, y = forward(x[i * part : (i + 1) * part], kernel)
            return i + 1, [array.write(i, each) for array, each in zip(taken, new, strict=True)], outputs.write(i, y)

        count = -(-tf.shape(x)[0] // part)
        start = [_array(dtype, count, (len(kind.to_inputs), None, channels)) for kind in kinds]
        outputs = _array(dtype, count, (None, height, width, filters))
        _, taken, outputs = tf.while_loop(lambda i, *_: i < count, step, (0, start, outputs))
        return taken, outputs.concat()

    def backward_in_parts(taken: list[Any], dy: Tensor, turned: Tensor) -> tuple[Tensor, list[Tensor]]:
        def step(i: Tensor, inputs: Any, sums: list[Tensor]) -> tuple[Tensor, Any, list[Tensor]]:
            dx, more = backward([array.read(i) for array in taken], dy[i * part : (i + 1) * part], turned)
            return i + 1, inputs.write(i, dx), [each + new for each, new in zip(sums, more, strict=True)]

        count = -(-tf.shape(dy)[0] // part)
        inputs = _array(dtype, count, (None, height, width, channels))
        zeros = [tf.zeros((len(kind.to_inputs), channels, filters), dtype) for kind in kinds]
        _, inputs, sums = tf.while_loop(lambda i, *_: i < count, step, (0, inputs, zeros))
        return inputs.concat(), sums

    outputs_of, gradients_of = (forward_in_parts, backward_in_parts) if size == 5 else (forward, backward)

    @tf.custom_gradient
    def run(x: Tensor, kernel: Tensor) -> tuple[Tensor, Any]:
        taken, y = outputs_of(x, kernel_at_points(from_kernel, kernel))

        def gradient(dy: Tensor) -> tuple[Tensor, Tensor]:
            dx, sums = gradients_of(taken, dy, kernel_at_points(from_kernel[:, ::-1], kernel))
            parts = [
                product(from_kernel[kind.points].T, tf.reshape(each, (len(kind.to_inputs), -1)))
                for kind, each in zip(kinds, sums, strict=True)
            ]
            return dx, tf.reshape(functools.reduce(tf.add, parts), (size, size, channels, filters))

        return y, gradient

    # reshaped to what it is: a tensor, where TensorFlow would see a variable inside a function with its own gradient
    return run(x, tf.reshape(kernel, kernel.shape))


def _array(dtype: Any, count: Tensor, shape: tuple[int | None, ...]) -> Any:
    """What the steps of a loop write to: `count` tensors that differ in the length that is None."""
    import tensorflow as tf

    return tf.TensorArray(dtype, count, infer_shape=False, element_shape=shape, clear_after_read=False)
