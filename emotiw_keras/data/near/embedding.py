"""An image as 48 numbers that hardly change with its cut: pooled gradients, projected by a linear discriminant analysis.

The projection was learned from FER-2013's training split and generated cuts of it (`benchmarks/near_duplicates.py --learn`):
directions in which different faces differ most in proportion to the cuts of one face. It is made of even and odd directions:
mirroring an image turns the sign of the odd ones, so a mirrored twin costs no second embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np

SIDE = 48
"""Side in pixels of the thumbnails in which images are compared."""
CELLS, DIRECTIONS, REACH = 6, 4, 4.0  # cells a side, directions of half a turn, pixels of a cell's Gaussian
FEATURES = 2 * DIRECTIONS * CELLS * CELLS
FLAT = 4.0
"""Grey levels: a thumbnail whose standard deviation is below shows nothing to compare."""
_AT_ONCE = 512


@dataclass(frozen=True)
class Projection:
    """mean float32 (FEATURES,), matrix float32 (FEATURES, dimensions), and how many of the dimensions are even (the first)."""

    mean: np.ndarray
    matrix: np.ndarray
    even: int


@cache
def shipped_projection() -> Projection:
    """The projection that comes with the package."""
    with (resources.files("emotiw_keras.data.near") / "projection.npz").open("rb") as file:
        stored = np.load(file, allow_pickle=False)
        mean, matrix = stored["mean"].astype(np.float32), stored["matrix"].astype(np.float32)
        return Projection(mean, matrix, int(stored["even"]))


def thumbnails(images: np.ndarray) -> np.ndarray:
    """Images in the size they are compared in.

    Args:
        images: uint8 (images, height, width, 1 or 3), 0..255, RGB.

    Returns:
        uint8 (images, SIDE, SIDE).
    """
    import cv2

    from emotiw_keras.data.resize import to_grey

    out = np.empty((len(images), SIDE, SIDE), np.uint8)
    for i, image in enumerate(images):
        grey = np.ascontiguousarray(to_grey(image)[..., 0])
        shrinks = min(grey.shape) >= SIDE
        out[i] = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return out


@cache
def _pooling() -> np.ndarray:
    centres = (np.arange(CELLS) + 0.5) * SIDE / CELLS - 0.5
    weights = np.exp(-0.5 * ((np.arange(SIDE)[None] - centres[:, None]) / REACH) ** 2)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def features(thumbs: np.ndarray) -> np.ndarray:
    """How much of each direction of gradient stands in each cell; strong gradients count little more than medium ones.

    Args:
        thumbs: uint8 (images, SIDE, SIDE).

    Returns:
        float32 (images, FEATURES): direction, row, column.
    """
    pool, angles = _pooling(), np.arange(DIRECTIONS) * np.pi / DIRECTIONS
    out = np.empty((len(thumbs), 2 * DIRECTIONS, CELLS, CELLS), np.float32)
    for start in range(0, len(thumbs), _AT_ONCE):
        part = thumbs[start : start + _AT_ONCE].astype(np.float32)
        across, down = np.zeros_like(part), np.zeros_like(part)
        across[:, :, 1:-1] = part[:, :, 2:] - part[:, :, :-2]
        down[:, 1:-1] = part[:, 2:] - part[:, :-2]
        strength = np.sqrt(across**2 + down**2)
        weight = 1 / (strength + strength.mean(axis=(1, 2), keepdims=True) + 1e-3)
        across *= weight
        down *= weight
        for k, angle in enumerate(angles.tolist()):
            along = across * np.float32(np.cos(angle)) + down * np.float32(np.sin(angle))
            for channel, half in ((k, np.maximum(along, 0)), (k + DIRECTIONS, np.maximum(-along, 0))):
                out[start : start + len(part), channel] = (pool @ half) @ pool.T
    return out.reshape(len(thumbs), -1)


def mirrored_order() -> np.ndarray:
    """int (FEATURES,): the features of a mirrored image are those of the image in this order."""
    places = np.arange(FEATURES).reshape(2 * DIRECTIONS, CELLS, CELLS)
    turned = [(DIRECTIONS - k) % (2 * DIRECTIONS) for k in range(2 * DIRECTIONS)]
    return places[turned][:, :, ::-1].reshape(-1)


def embed(thumbs: np.ndarray, projection: Projection | None = None) -> np.ndarray:
    """Embed thumbnails.

    Args:
        thumbs: uint8 (images, SIDE, SIDE).
        projection: another than the shipped one.

    Returns:
        float32 (images, dimensions) of length 1, the even dimensions first: the product of two is their likeness, -1..1.
    """
    by = projection or shipped_projection()
    found = (features(thumbs) - by.mean) @ by.matrix
    return found / (np.linalg.norm(found, axis=1, keepdims=True) + 1e-6)
