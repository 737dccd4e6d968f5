"""YuNet, OpenCV's small face detector; its file comes through the manifest of weights.

Wu, Peng, Yu: YuNet: A Tiny Millisecond-level Face Detector, Machine Intelligence Research 2023.
"""

from __future__ import annotations

import threading

import cv2
import numpy as np

from emotiw_keras.errors import ModelError
from emotiw_keras.faces.blazeface import overlap
from emotiw_keras.faces.detector_input import as_rgb
from emotiw_keras.faces.face import MIN_FACE, Face
from emotiw_keras.faces.plausible import plausible
from emotiw_keras.weights.cache import file_path, find
from emotiw_keras.weights.manifest import get_entry

KEY = "yunet"
# OpenCV's defaults.
MIN_SCORE = 0.9
SAME_FACE = 0.3
MOST = 5000
# YuNet finds faces of 10 to 300 pixels: larger images are shrunk to this longer side, and, for their small faces, looked at
# once more so that the smallest have those 10.
LONGEST_SIDE = 1280
SMALLEST = 10.0


class YuNetDetector:
    """`cv2.FaceDetectorYN` with the file that `emotiw weights fetch yunet` brings."""

    name = "yunet"

    def __init__(self, min_face: float = MIN_FACE) -> None:
        self.min_face = min_face
        entry = get_entry(KEY)
        path = find(entry)
        if path is None:
            raise ModelError(f"the detector {KEY} is not at {file_path(entry)}; get it with `emotiw weights fetch {KEY}`")
        try:
            data, none = np.fromfile(path, np.uint8), np.empty(0, np.uint8)
            self.net = cv2.FaceDetectorYN.create("onnx", data, none, (320, 320), MIN_SCORE, SAME_FACE, MOST)
        except cv2.error as error:
            raise ModelError(f"OpenCV {cv2.__version__} cannot read {path}: {error.err}") from error
        self._lock = threading.Lock()

    def detect(self, image: np.ndarray) -> list[Face]:
        """Faces of one upright image, uint8 (height, width, 3) RGB or (height, width[, 1]) grey, largest box first."""
        image = as_rgb(image)
        height, width = image.shape[:2]
        shrink = max(1.0, max(height, width) / LONGEST_SIDE)
        fine = self.min_face / SMALLEST
        with self._lock:
            faces = [face for each in sorted({shrink, min(shrink, fine)}) for face in self._look(image, each)]
        kept: list[Face] = []
        for face in sorted(faces, key=lambda face: -face.score):
            if not kept or overlap(np.array(face.box), np.array([other.box for other in kept])).max() <= SAME_FACE:
                kept.append(face)
        return plausible(kept, width, height)

    def _look(self, image: np.ndarray, shrink: float) -> list[Face]:
        height, width = image.shape[:2]
        size = (max(1, round(width / shrink)), max(1, round(height / shrink)))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if shrink > 1 else image
        self.net.setInputSize(size)
        _, rows = self.net.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        return [] if rows is None else [self._face(row, width / size[0], height / size[1]) for row in rows.astype(float)]

    def _face(self, row: np.ndarray, across: float, down: float) -> Face:
        """A row of `cv2.FaceDetectorYN`: box, five points of which the first two are the eyes, score."""
        steps = np.tile([across, down], 4)
        x, y, box_width, box_height, *eyes = (row[:8] * steps).tolist()
        left, right = sorted([(eyes[0], eyes[1]), (eyes[2], eyes[3])])
        return Face((x, y, box_width, box_height), (left, right), float(row[14]), self.name)
