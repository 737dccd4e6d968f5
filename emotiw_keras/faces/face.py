"""What a detector says about one face, and what a detector is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

Point = tuple[float, float]


@dataclass(frozen=True)
class Face:
    """One face found in a picture. Coordinates are pixels of the upright picture, origin top left, pixel centres at integers.

    box       x, y, width, height
    eyes      the two eye centres (mean of the six points around an eye in the 68-point scheme), the one further left in the
              picture first
    score     0..1, the detector's confidence
    detector  name of the detector

        >>> Face((10, 10, 80, 80), ((30, 40), (70, 40)), 0.9, "yunet").roll
        0.0
    """

    box: tuple[float, float, float, float]
    eyes: tuple[Point, Point]
    score: float
    detector: str

    @property
    def roll(self) -> float:
        """Degrees of the line between the eyes, positive when the one further right in the picture is lower."""
        (left, top), (right, bottom) = self.eyes
        return math.degrees(math.atan2(bottom - top, right - left))


class Detector(Protocol):
    """Finds faces; what every detector here offers."""

    name: str

    def detect(self, image: np.ndarray) -> list[Face]:
        """Faces of one upright picture, uint8 (height, width, 3) RGB or (height, width) grey, largest box first."""
        ...
