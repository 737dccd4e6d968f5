"""From an image and two eye centres to the face as Ng et al. 2015 cut it: one warp, replicated border, grey, stretched.

Coordinates here, of images and of crops, have pixel centres at integers, as OpenCV and the detectors count them. With d the
distance between the eye centres and the eye line turned level, reading B takes 1.12 d to either side of the point between the
eyes, 0.9 d above and 1.35 d below; in a crop of 256 pixels the eyes lie at x = 70.86 and 185.14, y = 102.4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from emotiw_keras.arguments import whole_number
from emotiw_keras.errors import DataError, UsageError
from emotiw_keras.faces.detector_input import not_an_image
from emotiw_keras.models.registry import LARGEST_SIDE
from emotiw_keras.text import briefly

SIDE = 256
LARGEST = 2 * LARGEST_SIDE
"""Of a crop, as of what a network's input may be cut from."""
# Section 3.1 of the paper, in units of "e2e".
_SIDES, _UP, _DOWN = 0.62, 0.9, 1.35
# Distances between the outer and between the inner eye corners of the mean face of 68 points, in distances of eye centres.
_OUTER, _INNER = 1.392, 0.588
# Eyes further apart, in sides of the image, belong to no face in it.
_FURTHEST = 2


@dataclass(frozen=True)
class Reading:
    """What the crop spans, in distances between the eye centres: to each side of their middle, above and below their line."""

    half: float
    up: float
    down: float


# The paper's sentence can be read in four ways; only B is "approximately square" and ends below the mouth, as the paper says.
READINGS: dict[str, Reading] = {
    # e2e between the centres, sides counted from the outer corners
    "A": Reading(_OUTER / 2 + _SIDES, _UP, _DOWN),
    # e2e between the centres, sides counted from the centres
    "B": Reading(0.5 + _SIDES, _UP, _DOWN),
    # e2e between the outer corners, sides counted from these
    "C": Reading((0.5 + _SIDES) * _OUTER, _UP * _OUTER, _DOWN * _OUTER),
    # e2e between the centres, sides counted from the inner corners
    "D": Reading(_INNER / 2 + _SIDES, _UP, _DOWN),
}
DEFAULT_READING = "B"


def _reading(name: str) -> Reading:
    if name not in READINGS:
        raise UsageError(f"unknown reading of the crop {name!r}; known: {', '.join(READINGS)}")
    return READINGS[name]


def eye_targets(side: int = SIDE, reading: str = DEFAULT_READING) -> np.ndarray:
    """Where the eye centres lie in a crop.

    Returns:
        float64 (eye, xy) = (2, 2), the eye on the left first.

    Raises:
        UsageError: there is no such reading.

    Example:
        >>> eye_targets().round(2).tolist()
        [[70.86, 102.4], [185.14, 102.4]]
    """
    box = _reading(reading)
    y = side * box.up / (box.up + box.down)
    return np.array([[side * (0.5 - 0.25 / box.half), y], [side * (0.5 + 0.25 / box.half), y]])


def _points(eyes: object) -> np.ndarray:
    try:
        points = np.asarray(eyes)
    except ValueError:  # lists of different lengths
        points = np.array(None)
    if points.dtype.kind not in "iuf" or points.shape[-2:] != (2, 2):
        raise DataError(f"eyes = {briefly(eyes)}: expected two points (x, y)")
    return points.astype(np.float64)


def crop_matrix(eyes: object, side: int = SIDE, reading: str = DEFAULT_READING) -> np.ndarray:
    """The affine map from image to crop: turns the eye line level, then scales each axis so that the box fills the crop.

    Args:
        eyes: (..., eye, xy), pixels of the image; the first eye comes to lie on the left.
        side: of the crop in pixels.
        reading: a name in `READINGS`.

    Returns:
        float64 (..., 2, 3): crop = matrix @ (x, y, 1).

    Raises:
        DataError: not two points, not finite, or both the same.
        UsageError: there is no such reading.

    Example:
        >>> (crop_matrix([(0, 0), (114.2857142857, 0)]).round(3) + 0).tolist()
        [[1.0, 0.0, 70.857], [0.0, 0.996, 102.4]]
    """
    points = _points(eyes)
    across = points[..., 1, :] - points[..., 0, :]
    distance = np.hypot(across[..., 0], across[..., 1])
    if not np.isfinite(points).all() or not (distance > 0).all():
        raise DataError(f"eyes at {points.tolist()}: expected two different points in pixels")
    box = _reading(reading)
    cos, sin = np.moveaxis(across / distance[..., None], -1, 0)
    scale_x, scale_y = side / (2 * box.half * distance), side / ((box.up + box.down) * distance)
    linear = np.stack(
        [np.stack([scale_x * cos, scale_x * sin], -1), np.stack([-scale_y * sin, scale_y * cos], -1)],
        axis=-2,
    )
    middle = points.mean(axis=-2)
    goal = np.array([side / 2, side * box.up / (box.up + box.down)])
    shift = goal - (linear @ middle[..., None])[..., 0]
    return np.concatenate([linear, shift[..., None]], axis=-1)


def align(
    image: np.ndarray,
    eyes: Sequence[Sequence[float]] | np.ndarray,
    side: int = SIDE,
    reading: str = DEFAULT_READING,
    grey: bool = True,
    stretch: bool = True,
) -> np.ndarray:
    """Cut one face out of an image, upright and of standard size (Ng et al. 2015, section 3.1).

    Outside the image its border is repeated. Where the face is larger than the crop, pixels are averaged, so nothing aliases.

    Args:
        image: uint8 0..255, (height, width), (height, width, 1) or (height, width, 3) RGB.
        eyes: the two eye centres (x, y) in pixels of the image; the first comes to lie on the left.
        side: of the crop in pixels, at most `LARGEST`.
        reading: what the crop spans, a name in `READINGS`.
        grey: give luma (ITU-R BT.601), else RGB.
        stretch: spread what the crop holds over 0..255 (all channels alike); a constant crop stays as it is.

    Returns:
        uint8 0..255, (side, side) if `grey`, else (side, side, 3) RGB.

    Raises:
        DataError: the image or the eyes are not of that kind.
        UsageError: there is no such reading, or the side is no whole number from 1 to `LARGEST`.

    Example:
        >>> align(photo, faces.detect(photo)[0].eyes).shape  # doctest: +SKIP
        (256, 256)
    """
    if wrong := not_an_image(image):
        raise DataError(wrong)
    points = _points(eyes)
    if points.ndim != 2:
        raise DataError(f"eyes of shape {points.shape}: expected those of one face, two points (x, y)")
    side = whole_number("side", side, 1, high=LARGEST)
    if math.dist(*points) > _FURTHEST * max(image.shape[:2]):
        size = f"{image.shape[1]} x {image.shape[0]}"
        raise DataError(f"eyes at {points.tolist()}: too far apart for an image of {size} pixels")
    face = _warp(image, crop_matrix(points, side, reading), side, grey)
    if stretch:
        face = stretched(face)
    return face if grey or face.ndim == 3 else np.repeat(face[..., None], 3, axis=-1)


def stretched(face: np.ndarray) -> np.ndarray:
    """Spread a face over 0..255: 255 (v - min) / (max - min), rounded; a constant one comes back unchanged (uint8)."""
    low, high = int(face.min()), int(face.max())
    if low == high or (low, high) == (0, 255):
        return face
    levels = np.arange(256, dtype=np.float64)
    table = np.rint(np.clip((levels - low) * (255 / (high - low)), 0, 255)).astype(np.uint8)
    return table[face]


def _warp(image: np.ndarray, matrix: np.ndarray, side: int, grey: bool) -> np.ndarray:
    """Warp what the crop needs of the image; a face larger than the crop is averaged, in the image and in the crop."""
    shrink = 1 / np.linalg.norm(matrix[:, :2], axis=1).min()
    # By whole numbers: blocks of the image first, so that a huge face costs little, then blocks of a finer crop.
    reduce = max(1, int(shrink // 2))
    finer = max(1, math.ceil(shrink / reduce - 1e-9))
    part, origin = _needed(image, matrix, side, reduce)
    if part.ndim == 3 and part.shape[2] == 1:
        part = part[..., 0]
    if grey and part.ndim == 3:
        part = cv2.cvtColor(part, cv2.COLOR_RGB2GRAY)
    if reduce > 1:
        part = _average(part, reduce)
    # part -> image -> crop -> finer crop; a block of n pixels has its centre (n - 1) / 2 behind its first.
    to_crop = np.vstack([matrix, (0, 0, 1)])
    to_image = np.array([[reduce, 0, origin[0]], [0, reduce, origin[1]], [0, 0, 1.0]]) + _shift((reduce - 1) / 2)
    to_finer = np.array([[finer, 0, 0], [0, finer, 0], [0, 0, 1.0]]) + _shift((finer - 1) / 2)
    whole = (to_finer @ to_crop @ to_image)[:2]
    size = (side * finer, side * finer)
    face = cv2.warpAffine(part, whole, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return face if finer == 1 else _average(face, finer)


def _shift(by: float) -> np.ndarray:
    return np.array([[0, 0, by], [0, 0, by], [0, 0, 0]])


def _needed(image: np.ndarray, matrix: np.ndarray, side: int, reduce: int) -> tuple[np.ndarray, tuple[int, int]]:
    """The part of the image that a crop touches, and its x and y in the image.

    A part never ends before the crop or the image does, so repeating its border repeats the image's. Its sides are
    multiples of `reduce`, made up by repeating.
    """
    inverse = cv2.invertAffineTransform(matrix)
    corners = np.array([[-1, -1, 1], [side, -1, 1], [-1, side, 1], [side, side, 1]]) @ inverse.T
    margin = 2 * reduce
    height, width = image.shape[:2]
    low = np.clip(np.floor(corners.min(axis=0)) - margin, 0, (width - 1, height - 1)).astype(int)
    high = np.clip(np.ceil(corners.max(axis=0)) + margin + 1, low + 1, (width, height)).astype(int)
    part = np.ascontiguousarray(image[low[1] : high[1], low[0] : high[0]])
    right, down = (-part.shape[1]) % reduce, (-part.shape[0]) % reduce
    if right or down:
        part = cv2.copyMakeBorder(part, 0, down, 0, right, cv2.BORDER_REPLICATE)
    return part, (int(low[0]), int(low[1]))


def _average(image: np.ndarray, block: int) -> np.ndarray:
    """Means of blocks of `block` x `block` pixels."""
    height, width = image.shape[:2]
    return cv2.resize(image, (width // block, height // block), interpolation=cv2.INTER_AREA)
