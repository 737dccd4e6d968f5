"""The forms of an image that detectors take, from whatever array they are given."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np


def as_rgb(image: np.ndarray) -> np.ndarray:
    """The image as contiguous uint8 (height, width, 3); grey is repeated.

    Args:
        image: uint8 0..255, (height, width), (height, width, 1) or (height, width, 3) RGB.

    Raises:
        ValueError: another type or shape, or no pixels.
    """
    if wrong := not_an_image(image):
        raise ValueError(wrong)
    if image.ndim == 2 or image.shape[2] == 1:
        return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_GRAY2RGB)
    return np.ascontiguousarray(image)


def as_grey(image: np.ndarray) -> np.ndarray:
    """The image as contiguous uint8 (height, width), luma of ITU-R BT.601. Takes and raises what `as_rgb` does."""
    if wrong := not_an_image(image):
        raise ValueError(wrong)
    image = np.ascontiguousarray(image)
    if image.ndim == 3 and image.shape[2] == 3:
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return image.reshape(image.shape[:2])


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The image as another of `size`, width and height: a smaller one by means over areas, so that nothing is left out.

    Example:
        >>> resized(np.array([[0, 4, 8, 9], [4, 8, 9, 10]], np.uint8), (2, 1))
        array([[4, 9]], dtype=uint8)
    """
    smaller = size[0] < image.shape[1] or size[1] < image.shape[0]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


def not_an_image(image: Any) -> str:
    """Why this is none of the arrays that detectors and `align` take, in words; nothing if it is one."""
    expected = "uint8 (height, width), (height, width, 1) or (height, width, 3)"
    if not isinstance(image, np.ndarray):
        return f"an image that is a {type(image).__name__}, expected an array of {expected}"
    fits = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3))
    if image.dtype != np.uint8 or not fits or not image.size:
        return f"an image of {image.dtype} {image.shape}, expected {expected}"
    return ""
