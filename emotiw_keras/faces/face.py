"""What a detector says about one face, and what a detector is."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

Point = tuple[float, float]

# Pixels of the smallest faces that are looked for in photos, and in videos, whose frames are many.
MIN_FACE, MIN_FACE_OF_VIDEOS = 24.0, 34.0


@dataclass(frozen=True)
class Face:
    """One face found in an image. Coordinates are pixels of the upright image, origin top left, pixel centres at integers.

    Attributes:
        box: x, y, width, height.
        eyes: the two eye centres (mean of the six points around an eye in the 68-point scheme), the one further left in the
            image first.
        score: 0..1, the detector's confidence.
        detector: name of the detector.

    Example:
        >>> Face((10, 10, 80, 80), ((30, 40), (70, 40)), 0.9, "yunet").roll
        0.0
    """

    box: tuple[float, float, float, float]
    eyes: tuple[Point, Point]
    score: float
    detector: str

    @property
    def roll(self) -> float:
        """Degrees of the line between the eyes, positive when the one further right in the image is lower."""
        (left, top), (right, bottom) = self.eyes
        return math.degrees(math.atan2(bottom - top, right - left))


def turned_back(face: Face, quarters: int, width: int, height: int) -> Face:
    """A face found in `np.rot90(image, quarters)`, at its place in the image.

    Args:
        face: what was found.
        quarters: turns to the left, 1 to 3.
        width, height: of the image, in pixels.

    Example:
        >>> turned_back(Face((10, 0, 20, 20), ((15, 5), (25, 5)), 0.9, "yunet"), 2, 100, 50).box
        (70, 30, 20, 20)
    """

    def back(x: float, y: float) -> Point:
        return {1: (width - 1 - y, x), 2: (width - 1 - x, height - 1 - y), 3: (y, height - 1 - x)}[quarters]

    x, y, across, down = face.box
    (left, top), (right, bottom) = back(x, y), back(x + across - 1, y + down - 1)
    box = (min(left, right), min(top, bottom), abs(right - left) + 1, abs(bottom - top) + 1)
    first, second = sorted(back(*eye) for eye in face.eyes)
    return replace(face, box=box, eyes=(first, second))


class Detector(Protocol):
    """Finds faces; what every detector here offers."""

    name: str

    def detect(self, image: np.ndarray) -> list[Face]:
        """Faces of one upright image, uint8 (height, width, 3) RGB or (height, width) grey, largest box first."""
        ...
