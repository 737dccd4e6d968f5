"""Grey and resize in arithmetic that is exact, so that every path gives the same bytes.

An image reaches the network over four ways: NumPy on the host, an eager layer, a compiled graph, an exported model. Weights of
resizing are therefore multiples of 2^-15 and both passes end in whole numbers: every product and partial sum fits the 24 bits
of a float32, and the order of summation, which differs between libraries and thread counts, cannot change the result.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import numpy as np

WEIGHT_ONE = 2**15
DENSE = 512
"""Pixels of a side up to which the weights are multiplied as pieces with few zeros, above without any."""
BAND = 24
"""About so many rows of an image go into a piece."""
# ITU-R BT.601 luma in 1/65536; the sum is 65536, so a grey image stays what it is.
LUMA = (19595, 38470, 7471)


def _round_half_even(numerator: np.ndarray, denominator: np.ndarray | np.int64) -> np.ndarray:
    quotient, rest = np.divmod(numerator, denominator)
    return quotient + ((2 * rest > denominator) | ((2 * rest == denominator) & (quotient % 2 == 1)))


@functools.lru_cache(maxsize=64)
def resize_weights(source: int, target: int) -> np.ndarray:
    """Weights of linear interpolation along one axis, half-pixel centres, antialiased when shrinking.

    Args:
        source: pixels before.
        target: pixels after.

    Returns:
        float32 (target, source); each row sums to 1 and holds multiples of 2^-15.
    """
    # Whole numbers throughout: the exported graph computes the same in TensorFlow, and no tie may fall differently there.
    odd = 2 * np.arange(source, dtype=np.int64) + 1
    centre = (2 * np.arange(target, dtype=np.int64) + 1) * source
    near = np.maximum(0, 2 * max(source, target) - np.abs(odd[None, :] * target - centre[:, None]))
    weights = _round_half_even(near * WEIGHT_ONE, near.sum(axis=1, keepdims=True))
    nearest = np.clip(_round_half_even(centre - target, np.int64(2 * target)), 0, source - 1)
    weights[np.arange(target), nearest] += WEIGHT_ONE - weights.sum(axis=1)
    result = (weights / WEIGHT_ONE).astype(np.float32)
    result.setflags(write=False)
    return result


@functools.lru_cache(maxsize=64)
def _sparse_weights(source: int, target: int) -> Any:
    """`resize_weights` without its zeros."""
    import scipy.sparse  # a fifth of a second, which faces that are cut out do not need

    return scipy.sparse.csr_matrix(resize_weights(source, target))


@functools.lru_cache(maxsize=64)
def _bands(source: int, target: int) -> list[tuple[slice, slice, np.ndarray]]:
    """Rows of the result, the rows before that they are made of, and their weights: those of few rows, next to each other, lie
    close together. Products this small are done by one thread; those of the whole matrix would wait for each other where
    several threads resize."""
    weights = resize_weights(source, target)
    size = max(1, BAND * target // source)
    found = []
    for start in range(0, target, size):
        rows = slice(start, min(start + size, target))
        used = np.flatnonzero(weights[rows].any(axis=0))
        columns = slice(int(used[0]), int(used[-1]) + 1)
        found.append((rows, columns, np.ascontiguousarray(weights[rows, columns])))
    return found


def _product(flat: np.ndarray, target: int) -> np.ndarray:
    """`resize_weights` times float32 (rows, n), rounded: float32 (target, n)."""
    source = len(flat)
    if source > DENSE and importlib.util.find_spec("scipy") is not None:
        return np.rint(_sparse_weights(source, target) @ flat)
    result = np.empty((target, flat.shape[1]), np.float32)
    for rows, columns, weights in _bands(source, target):
        np.matmul(weights, flat[columns], out=result[rows])
    return np.rint(result, out=result)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize one image: bilinear, half-pixel centres, antialiased when shrinking, rounded half to even after each axis.

    Args:
        image: uint8 0..255, (height, width) or (height, width, channels).
        height: rows of the result.
        width: columns of the result.

    Returns:
        uint8 of the same number of dimensions.

    Example:
        >>> resize(np.array([[0, 255]], np.uint8), 1, 4).tolist()
        [[0, 64, 191, 255]]
    """
    rows, columns = image.shape[:2]
    result = image
    if rows != height:
        flat = result.reshape(rows, -1).astype(np.float32)
        flat = _product(flat, height)
        result = flat.reshape((height, *image.shape[1:]))
    if columns != width:
        moved = np.moveaxis(result, 1, 0)
        flat = np.ascontiguousarray(moved, dtype=np.float32).reshape(columns, -1)
        flat = _product(flat, width)
        result = np.moveaxis(flat.reshape((width, *moved.shape[1:])), 0, 1)
    return np.ascontiguousarray(result, dtype=np.uint8)


def to_grey(image: np.ndarray) -> np.ndarray:
    """Luma of an image (ITU-R BT.601, rounded).

    Args:
        image: uint8 (..., 1) grey, or (..., 3) RGB.

    Returns:
        uint8 (..., 1); a grey image, in one channel or three equal ones, comes back unchanged.
    """
    if image.shape[-1] == 1:
        return image
    red, green, blue = (image[..., i].astype(np.int32) * LUMA[i] for i in range(3))
    return ((red + green + blue + 32768) >> 16).astype(np.uint8)[..., None]


def as_taken(face: np.ndarray, channels: int, side: int) -> np.ndarray:
    """A face in the channels and the size that a network takes.

    Args:
        face: uint8 (height, width, 1 or 3), grey or RGB.
        channels: 1 or 3.
        side: pixels a side.

    Returns:
        uint8 (side, side, channels).

    Example:
        >>> as_taken(np.zeros((40, 50, 3), np.uint8), 1, 48).shape
        (48, 48, 1)
    """
    if channels == 1:
        face = to_grey(face)
    elif face.shape[-1] == 1:
        face = np.repeat(face, 3, axis=-1)
    return resize(face, side, side)
