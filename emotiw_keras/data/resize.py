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
"""Pixels of a side up to which the weights are multiplied with their zeros."""
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
def _product_weights(source: int, target: int) -> Any:
    """`resize_weights` as what is fastest to multiply by: most of a large one is zeros."""
    if source <= DENSE or importlib.util.find_spec("scipy") is None:
        return resize_weights(source, target)
    import scipy.sparse  # a fifth of a second, which faces that are cut out do not need

    return scipy.sparse.csr_matrix(resize_weights(source, target))


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
        flat = np.rint(_product_weights(rows, height) @ flat)
        result = flat.reshape((height, *image.shape[1:]))
    if columns != width:
        moved = np.moveaxis(result, 1, 0)
        flat = np.ascontiguousarray(moved, dtype=np.float32).reshape(columns, -1)
        flat = np.rint(_product_weights(columns, width) @ flat)
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
