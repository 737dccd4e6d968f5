"""Viola and Jones' cascades, as the paper used them: frontal faces, profiles either way, and the eyes inside.

Viola, Jones: Rapid Object Detection using a Boosted Cascade of Simple Features, CVPR 2001. OpenCV 4 brings the cascades.
"""

from __future__ import annotations

import threading
from pathlib import Path

import cv2
import numpy as np

from emotiw_keras.errors import ModelError
from emotiw_keras.faces.detector_input import as_grey
from emotiw_keras.faces.face import MIN_FACE, Face, Point
from emotiw_keras.faces.plausible import plausible

Box = tuple[float, float, float, float]

# OpenCV's own settings for faces.
STEP = 1.1
NEIGHBOURS = 3
SMALLEST = 24
# Cascades slow down with the area, and blunder more often: nothing is gained above. Small faces of larger images are lost.
LONGEST_SIDE = 1280
SAME_FACE = 0.3
# A face is looked at again at this width for its eyes, which the cascade wants 20 pixels wide.
EYES_WIDTH = 160
# Where the eye centres are in a box of the frontal cascade, as fractions of its sides: mean over many detections.
USUAL_EYES: tuple[Point, Point] = ((0.31, 0.39), (0.69, 0.39))
# How far from there an eye may be found.
EYE_REACH = 0.15


def cascade(name: str) -> cv2.CascadeClassifier:
    """One of OpenCV's cascades.

    Raises:
        ModelError: this build of OpenCV has none; 5.x does not bring them.
    """
    folder = getattr(getattr(cv2, "data", None), "haarcascades", "")
    path = Path(folder, f"haarcascade_{name}.xml")
    if not hasattr(cv2, "CascadeClassifier") or not path.is_file():
        wanted = "install opencv-python-headless>=4.11,<5 and no other OpenCV"
        raise ModelError(f"OpenCV {cv2.__version__} has no cascade {name}; {wanted}")
    classifier = cv2.CascadeClassifier()
    # Its text: a path that is no UTF-8 would end the process.
    stored = cv2.FileStorage(path.read_text(), cv2.FILE_STORAGE_READ | cv2.FILE_STORAGE_MEMORY)
    if not classifier.read(stored.getFirstTopLevelNode()):
        raise ModelError(f"OpenCV {cv2.__version__} cannot read {path}")
    return classifier


class ViolaJonesDetector:
    """Frontal, profile and mirrored profile cascades; the eye cascade corrects where the eyes of such a box usually are.

    The score is n / (n + 3), n being the number of windows that agree on a face.
    """

    name = "viola_jones"

    def __init__(self, min_face: float = MIN_FACE) -> None:
        self.min_face = min_face
        self.frontal = cascade("frontalface_alt2")
        self.profile = cascade("profileface")
        self.eye = cascade("eye_tree_eyeglasses")
        self._lock = threading.Lock()

    def detect(self, image: np.ndarray) -> list[Face]:
        """Faces of one upright image, uint8 (height, width, 3) RGB or (height, width[, 1]) grey, largest box first."""
        grey = as_grey(image)
        height, width = grey.shape
        shrink = max(1.0, max(height, width) / LONGEST_SIDE)
        small = grey
        if shrink > 1:
            size = (max(1, round(width / shrink)), max(1, round(height / shrink)))
            small = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        with self._lock:
            smallest = max(SMALLEST, round(self.min_face / shrink))
            found = [(_times(box, shrink), score) for box, score in self._boxes(cv2.equalizeHist(small), smallest)]
            faces = [Face(box, self._eyes(grey, box), score, self.name) for box, score in found]
        return plausible(faces, width, height)

    def _boxes(self, grey: np.ndarray, smallest: int) -> list[tuple[Box, float]]:
        """Boxes and scores; a profile counts where no frontal face was found."""
        width = grey.shape[1]
        found = _windows(self.frontal, grey, smallest)
        found += _windows(self.profile, grey, smallest)
        mirrored = _windows(self.profile, grey[:, ::-1].copy(), smallest)
        found += [((width - x - w, y, w, h), score) for (x, y, w, h), score in mirrored]
        kept: list[tuple[Box, float]] = []
        for box, score in found:
            if all(_overlap(box, other) <= SAME_FACE for other, _ in kept):
                kept.append((box, score))
        return kept

    def _eyes(self, grey: np.ndarray, box: Box) -> tuple[Point, Point]:
        """Eye centres in a face's box: found by the eye cascade, or where they usually are."""
        x, y, width, height = box
        left, top = max(0, round(x)), max(0, round(y))
        part = grey[top : round(y + height), left : round(x + width)]
        scale = EYES_WIDTH / part.shape[1]
        upper = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        upper = upper[: round(0.6 * upper.shape[0])]
        windows = self.eye.detectMultiScale(upper, STEP, NEIGHBOURS, minSize=(20, 20)) if upper.size else ()
        centres = [(left + (ex + ew / 2) / scale - 0.5, top + (ey + eh / 2) / scale - 0.5) for ex, ey, ew, eh in windows]
        expected = [(x + width * across, y + height * down) for across, down in USUAL_EYES]
        chosen = [_nearest(centres, point, EYE_REACH * width) for point in expected]
        if chosen[0] and chosen[1]:
            return chosen[0], chosen[1]
        # One eye alone moves the pair.
        for one, usual in zip(chosen, expected, strict=True):
            if one:
                moved = (one[0] - usual[0], one[1] - usual[1])
                expected = [(px + moved[0], py + moved[1]) for px, py in expected]
        return expected[0], expected[1]


def _times(box: Box, factor: float) -> Box:
    x, y, width, height = box
    return factor * x, factor * y, factor * width, factor * height


def _windows(classifier: cv2.CascadeClassifier, grey: np.ndarray, smallest: int) -> list[tuple[Box, float]]:
    """Boxes and scores of one cascade, the surest first."""
    boxes, counts = classifier.detectMultiScale2(grey, STEP, NEIGHBOURS, minSize=(smallest, smallest))
    found = [
        ((float(x), float(y), float(w), float(h)), float(count) / (float(count) + NEIGHBOURS))
        for (x, y, w, h), count in zip(boxes, counts, strict=True)
    ]
    return sorted(found, key=lambda pair: (-pair[1], pair[0]))


def _overlap(one: Box, other: Box) -> float:
    """Common area of two boxes over the smaller one's area."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height) / min(one[2] * one[3], other[2] * other[3])


def _nearest(points: list[Point], wanted: Point, reach: float) -> Point | None:
    near = sorted((float(np.hypot(x - wanted[0], y - wanted[1])), (x, y)) for x, y in points)
    return near[0][1] if near and near[0][0] <= reach else None
