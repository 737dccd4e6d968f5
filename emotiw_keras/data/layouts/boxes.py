"""Faces that a list gives as boxes in larger images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from emotiw_keras.data.archive import Archive, ArchiveImages
from emotiw_keras.data.images import MIN_SIDE, ImageError

Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels; right and bottom are outside."""


class BoxedImages:
    """The boxes of images that are files of a folder or a zip, cut at the border of their image."""

    def __init__(self, archive: Archive, members: list[str], boxes: Sequence[Box]) -> None:
        self._images = ArchiveImages(archive, members)
        self._boxes = boxes

    def _cut(self, index: int, height: int, width: int) -> Box:
        left, top, right, bottom = self._boxes[index]
        left, top, right, bottom = max(0, left), max(0, top), min(width, right), min(height, bottom)
        if right - left < MIN_SIDE or bottom - top < MIN_SIDE:
            raise ImageError(f"the box {self._boxes[index]} leaves less than {MIN_SIDE} pixels of {width} x {height}")
        return left, top, right, bottom

    def shape(self, index: int) -> tuple[int, int, int]:
        """(height, width, channels) of the box."""
        height, width, channels = self._images.shape(index)
        left, top, right, bottom = self._cut(index, height, width)
        return bottom - top, right - left, channels

    def image(self, index: int) -> np.ndarray:
        """uint8 (height, width, 1 or 3) of the box."""
        image = self._images.image(index)
        left, top, right, bottom = self._cut(index, *image.shape[:2])
        return image[top:bottom, left:right]
