"""MediaPipe's face mesh: 468 points of one face, and whether it is a face at all.

Kartynnik, Ablavatski, Grishchenko, Grundmann: Real-time Facial Surface Geometry from Monocular Video on Mobile GPUs, 2019,
arXiv:1907.06724.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from emotiw_keras.faces.crew import Crew
from emotiw_keras.faces.detector_net import DetectorNet

SIDE = 192
POINTS = 468
# The mesh was trained on squares of 1.5 times the size of a face, upright by the line between the eyes.
MARGIN = 1.5
# The mean of the points from two crops, of 1.5 and of 1.2 times the face, is steadier than either.
ZOOMS = (1.0, 0.8)
# Degrees, and shares of the side, by which a square may be turned, larger and away from one in which the mesh sees the same.
TURNED, LARGER, AWAY = 5.0, 0.1, 0.05
# Contours of the eyelids, for the eye that is on the left in an image of an upright face, and for the other one. Their means
# are the eye centres; the points of the two eyes correspond to each other.
LEFT_EYELIDS = (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246)
RIGHT_EYELIDS = (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466)
LEFT_CORNER, RIGHT_CORNER = LEFT_EYELIDS[0], RIGHT_EYELIDS[0]


@dataclass(frozen=True)
class Square:
    """A turned square in an image: its centre, its side in pixels, and its angle in radians, clockwise as seen."""

    x: float
    y: float
    side: float
    angle: float

    def zoomed(self, factor: float) -> Square:
        """The same with its side times `factor`."""
        return Square(self.x, self.y, self.side * factor, self.angle)

    def near(self, other: Square) -> bool:
        """Whether a look at the other one would show nothing new."""
        turned = math.remainder(self.angle - other.angle, math.tau)
        return (
            abs(turned) <= math.radians(TURNED)
            and abs(self.side / other.side - 1) <= LARGER
            and math.hypot(self.x - other.x, self.y - other.y) <= AWAY * other.side
        )

    def matrix(self) -> np.ndarray:
        """(2, 3): image -> crop, pixel centres at integers in both."""
        scale = SIDE / self.side
        cosine, sine = np.cos(self.angle) * scale, np.sin(self.angle) * scale
        turn = np.array([[cosine, sine], [-sine, cosine]])
        return np.column_stack([turn, (SIDE - 1) / 2 - turn @ [self.x, self.y]])


def upright_square(box_centre: np.ndarray, size: float, left_eye: np.ndarray, right_eye: np.ndarray) -> Square:
    """The square that the mesh wants, around a face of `size` pixels whose eyes are given as (x, y)."""
    x, y = right_eye - left_eye
    return Square(float(box_centre[0]), float(box_centre[1]), MARGIN * float(size), float(np.arctan2(y, x)))


def square_of_points(points: np.ndarray) -> Square:
    """The square for a second look, from the points (468, 2) of the first."""
    x, y = points[RIGHT_CORNER] - points[LEFT_CORNER]
    angle = np.arctan2(y, x)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    turned = points @ turn.T
    low, high = turned.min(axis=0), turned.max(axis=0)
    return upright_square((low + high) / 2 @ turn, (high - low).max(), points[LEFT_CORNER], points[RIGHT_CORNER])


def eye_centres(points: np.ndarray) -> np.ndarray:
    """(2, 2): x and y of both eye centres, the one of `LEFT_EYELIDS` first, from points (468, 2)."""
    return np.stack([points[list(LEFT_EYELIDS)].mean(axis=0), points[list(RIGHT_EYELIDS)].mean(axis=0)])


class FaceMesh:
    """The network.

    Args:
        path: its TFLite file.
        engine: what computes it (`detector_net.ENGINES`).
        crew: who computes.
    """

    def __init__(self, path: Path, engine: str, crew: Crew) -> None:
        self.net = DetectorNet(path, ("conv2d_20", "conv2d_30"), engine, (1, SIDE, SIDE))
        self._crew = crew

    def fit(self, image: np.ndarray, squares: list[Square]) -> list[tuple[np.ndarray, float]]:
        """Points (468, 2) in the image and the probability 0..1 of a face, for each square.

        Args:
            image: uint8 (height, width, 3) RGB.
            squares: where to look.
        """
        return self._crew.each(lambda square: self._fit(image, square.matrix()), squares)

    def _fit(self, image: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, float]:
        points, flag = self.net(cv2.dnn.blobFromImage(self._crop(image, matrix), 1 / 255))
        # The points of a crop and of its mirror image lie symmetric about 95.5: they, too, have pixel centres at integers.
        back = cv2.invertAffineTransform(matrix)
        flat_points = points.reshape(POINTS, 3)[:, :2]
        return flat_points @ back[:, :2].T + back[:, 2], float(1 / (1 + np.exp(-float(flag.item()))))

    def place(self, image: np.ndarray, squares: list[Square]) -> list[tuple[np.ndarray, float]]:
        """As `fit`, by looks of all `ZOOMS` at squares that are upright by the points of a first look: the mean of the points
        by probability, and the highest probability. A first look that was at such a square is one of them."""
        looks: list[list[tuple[np.ndarray, float]]] = []
        more: list[tuple[int, Square]] = []
        for number, (square, first) in enumerate(zip(squares, self.fit(image, squares), strict=True)):
            upright = square_of_points(first[0])
            stands = square.near(upright)
            looks.append([first] if stands else [])
            more += [(number, upright.zoomed(zoom)) for zoom in ZOOMS if zoom != 1 or not stands]
        for (number, _), look in zip(more, self.fit(image, [square for _, square in more]), strict=True):
            looks[number].append(look)
        found = []
        for each in looks:
            points, flags = zip(*each, strict=True)
            # A probability of 0 in all crops still has points.
            found.append((np.average(points, axis=0, weights=np.add(flags, 1e-6)), max(flags)))
        return found

    @staticmethod
    def _crop(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        # Unless it is shrunk first, a large face would be sampled at every n-th pixel, and the points would tremble.
        image, matrix = _part(image, matrix, max(1, int(1 / np.hypot(*matrix[0, :2]))))
        return cv2.warpAffine(image, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _part(image: np.ndarray, matrix: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """The part of an image that a crop shows, shrunk `factor` times by area, and the matrix that goes with it.

    A part is also what lets OpenCV warp images of more than 32,767 pixels a side.
    """
    height, width = image.shape[:2]
    back = cv2.invertAffineTransform(matrix)
    corners = np.array([(0, 0), (SIDE, 0), (0, SIDE), (SIDE, SIDE)]) @ back[:, :2].T + back[:, 2]
    low = np.clip(np.floor(corners.min(axis=0)) - 2 * factor, 0, (width - 1, height - 1)).astype(int)
    high = np.clip(np.ceil(corners.max(axis=0)) + 2 * factor, low + 1, (width, height)).astype(int)
    part = image[low[1] : high[1], low[0] : high[0]]
    size = np.maximum(1, (high - low) // factor)
    small = part if factor == 1 else cv2.resize(part, size.tolist(), interpolation=cv2.INTER_AREA)
    steps = (high - low) / size
    # A small pixel i stands at (i + 0.5) * step - 0.5 of the part.
    turn = matrix[:, :2] * steps
    return small, np.column_stack([turn, matrix[:, 2] + matrix[:, :2] @ (low + (steps - 1) / 2)])
