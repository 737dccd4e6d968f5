"""Grey and resize in arithmetic that is exact, so that every path gives the same bytes.

A picture reaches the network over four ways: NumPy on the host, an eager layer, a compiled graph, an exported model. Weights of
resizing are therefore multiples of 2^-15 and both passes end in whole numbers: every product and partial sum fits the 24 bits
of a float32, and the order of summation, which differs between libraries and thread counts, cannot change the result.
"""

from __future__ import annotations

import functools

import numpy as np
import scipy.sparse

WEIGHT_UNIT = 2.0**-15
# ITU-R BT.601 luma in 1/65536; the sum is 65536, so a grey picture stays what it is.
LUMA = (19595, 38470, 7471)


@functools.lru_cache(maxsize=64)
def resize_weights(source: int, target: int) -> np.ndarray:
    """Weights of linear interpolation along one axis, half-pixel centres, antialiased when shrinking.

    Args:
        source: pixels before.
        target: pixels after.

    Returns:
        float32 (target, source); each row sums to 1 and holds multiples of 2^-15.
    """
    scale = source / target
    support = max(scale, 1.0)
    centre = (np.arange(target, dtype=np.float64) + 0.5) * scale - 0.5
    distance = np.abs(np.arange(source, dtype=np.float64)[None, :] - centre[:, None]) / support
    weights = np.maximum(0.0, 1.0 - distance)
    weights = np.round(weights / weights.sum(axis=1, keepdims=True) / WEIGHT_UNIT)
    nearest = np.clip(np.round(centre), 0, source - 1).astype(np.int64)
    weights[np.arange(target), nearest] += 1 / WEIGHT_UNIT - weights.sum(axis=1)
    result = (weights * WEIGHT_UNIT).astype(np.float32)
    result.setflags(write=False)
    return result


@functools.lru_cache(maxsize=64)
def _sparse_weights(source: int, target: int) -> scipy.sparse.csr_matrix:
    return scipy.sparse.csr_matrix(resize_weights(source, target))


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize one picture: bilinear, half-pixel centres, antialiased when shrinking, rounded half to even after each axis.

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
        flat = np.rint(_sparse_weights(rows, height) @ flat)
        result = flat.reshape((height, *image.shape[1:]))
    if columns != width:
        moved = np.moveaxis(result, 1, 0)
        flat = np.ascontiguousarray(moved, dtype=np.float32).reshape(columns, -1)
        flat = np.rint(_sparse_weights(columns, width) @ flat)
        result = np.moveaxis(flat.reshape((width, *moved.shape[1:])), 0, 1)
    return np.ascontiguousarray(result, dtype=np.uint8)


def to_grey(image: np.ndarray) -> np.ndarray:
    """Luma of a picture (ITU-R BT.601, rounded).

    Args:
        image: uint8 (..., 1) grey, or (..., 3) RGB.

    Returns:
        uint8 (..., 1); a grey picture, in one channel or three equal ones, comes back unchanged.
    """
    if image.shape[-1] == 1:
        return image
    red, green, blue = (image[..., i].astype(np.int32) * LUMA[i] for i in range(3))
    return ((red + green + blue + 32768) >> 16).astype(np.uint8)[..., None]
