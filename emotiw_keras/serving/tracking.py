"""One face through the frames of a video: found every k frames, carried by optical flow between, and numbered.

Points inside the box are followed from frame to frame and back again (Kalal, Mikolajczyk, Matas: Forward-backward error, ICPR
2010). Those that return move the box and the eyes by one similarity transform. A face whose points do not return, or that no
longer looks as it did a frame ago, is dropped, and the detector is asked at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from emotiw_keras.errors import UsageError
from emotiw_keras.faces.face import Detector, Face, Point
from emotiw_keras.serving.readings import Box

# Flow is measured on a copy of at most this many pixels a side.
FLOW_SIDE = 640
BORDER = 0.1  # of a box, on each side
MOST_POINTS = 64  # of a face
RETURNED_WITHIN = 1.0  # pixels of that copy
FEWEST_POINTS = 6  # a face of 40 pixels has about ten
LARGEST_ZOOM = 1.25  # from one frame to the next
# Correlation of the box's patch with that of the frame before; boxes of two persons exceed it in 3 of 100 pairs.
SAME_LOOK = 0.7
SAME_PLACE = 0.3  # intersection over union
PATCH = 24  # pixels a side
# Frames after which a face that was lost gets a new number when it is found again.
MEMORY = 15


@dataclass(frozen=True)
class _Track:
    number: int
    face: Face
    patch: np.ndarray
    seen: int


class Tracker:
    """Faces of a video's frames, each with a number that stays while it is followed.

    Args:
        detector: finds faces in one frame.
        every: the detector looks at every so many frames; 1 means each.

    Raises:
        UsageError: `every` is below 1.
    """

    def __init__(self, detector: Detector, every: int = 1) -> None:
        if every < 1:
            raise UsageError(f"every={every}: expected at least 1")
        self._detector = detector
        self._every = every
        self._frame = -1
        self._detected = -every
        self._next_number = 0
        self._tracks: list[_Track] = []
        self._before: np.ndarray | None = None

    def follow(self, image: np.ndarray, found: Sequence[Face] | None = None) -> list[tuple[int, Face]]:
        """Faces of the next frame.

        Args:
            image: uint8 0..255, (height, width, 3) RGB or (height, width) grey.
            found: what the detector says of it; None asks it, when it is its turn.

        Returns:
            The number and the place of each face, largest first.
        """
        self._frame += 1
        small, scale = _small_grey(image)
        carried = None if self._frame - self._detected >= self._every else self._carry(small, scale)
        if carried is None:
            self._detected = self._frame
            present = self._numbered(self._detector.detect(image) if found is None else found, small, scale)
        else:
            present = carried
        numbers = {track.number for track in present}
        lost = [each for each in self._tracks if each.number not in numbers and self._frame - each.seen <= MEMORY]
        self._tracks = present + lost
        self._before = small
        return [(track.number, track.face) for track in present]

    def _carry(self, small: np.ndarray, scale: float) -> list[_Track] | None:
        """Each present face in the new frame; None if one of them cannot be carried."""
        carried = self._carried(small, scale)
        return None if None in carried.values() else [track for track in carried.values() if track is not None]

    def _carried(self, small: np.ndarray, scale: float) -> dict[int, _Track | None]:
        """Number of each present face -> where flow carries it; None where it does not."""
        present = [track for track in self._tracks if track.seen == self._frame - 1]
        carried: dict[int, _Track | None] = {track.number: None for track in present}
        if not present or self._before is None or self._before.shape != small.shape:
            return carried
        corners = [_corners(self._before, track.face.box, scale) for track in present]
        owner = np.repeat(np.arange(len(present)), [len(each) for each in corners])
        points = np.concatenate(corners)
        if not len(points):
            return carried
        there, found, _ = cv2.calcOpticalFlowPyrLK(self._before, small, points, None)
        back, returned, _ = cv2.calcOpticalFlowPyrLK(small, self._before, there, None)
        good = (found[:, 0] == 1) & (returned[:, 0] == 1) & (np.abs(back - points).max(axis=1) <= RETURNED_WITHIN)
        for index, track in enumerate(present):
            mine = good & (owner == index)
            moved = _moved(track.face, points[mine], there[mine], scale)
            patch = None if moved is None or not _inside(moved, small, scale) else _patch(small, moved.box, scale)
            if moved is not None and patch is not None and float(patch @ track.patch) >= SAME_LOOK:
                carried[track.number] = _Track(track.number, moved, patch, self._frame)
        return carried

    def _numbered(self, faces: Sequence[Face], small: np.ndarray, scale: float) -> list[_Track]:
        """Give each found face the number of the known one at its place that looks alike, or that flow carries there, the
        closest pairs first. A detector's boxes of one face differ in size, and so does what is seen in them."""
        carried: dict[int, _Track | None] | None = None
        patches = [_patch(small, face.box, scale) for face in faces]
        known = list(enumerate(self._tracks))
        pairs = [(_overlap(face.box, track.face.box), i, j) for i, face in enumerate(faces) for j, track in known]
        number_of: dict[int, int] = {}
        taken: set[int] = set()
        for overlap, i, j in sorted(pairs, reverse=True):
            patch = patches[i]
            if overlap < SAME_PLACE or i in number_of or j in taken or patch is None:
                continue
            same = float(patch @ self._tracks[j].patch) >= SAME_LOOK
            if not same:
                carried = self._carried(small, scale) if carried is None else carried
                there = carried.get(self._tracks[j].number)
                same = there is not None and _overlap(faces[i].box, there.face.box) >= SAME_PLACE
            if same:
                number_of[i] = self._tracks[j].number
                taken.add(j)
        tracks = []
        for i, face in enumerate(faces):
            patch = patches[i]
            if i not in number_of:
                number_of[i] = self._next_number
                self._next_number += 1
            look = np.zeros(PATCH**2, np.float32) if patch is None else patch
            tracks.append(_Track(number_of[i], face, look, self._frame))
        return tracks


def _small_grey(image: np.ndarray) -> tuple[np.ndarray, float]:
    """A grey copy for measuring flow, and its pixels for one of the frame."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
    scale = min(1.0, FLOW_SIDE / max(grey.shape))
    if scale < 1:
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return grey, scale


def _corners(small: np.ndarray, box: Box, scale: float) -> np.ndarray:
    """Points that can be followed, in the inner part of a box, which holds the face and little background: float32 (n, 2)."""
    left, top, right, bottom = _edges(box, scale, BORDER)
    inner = small[top:bottom, left:right]
    if min(inner.shape) < 4:
        return np.zeros((0, 2), np.float32)
    apart = max(2.0, (right - left) / 20)
    found = cv2.goodFeaturesToTrack(inner, MOST_POINTS, qualityLevel=0.01, minDistance=apart)
    return np.zeros((0, 2), np.float32) if found is None else found[:, 0] + np.array([left, top], np.float32)


def _edges(box: Box, scale: float, border: float = 0.0) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a box in the small copy, without a border given in shares of its sides; not below 0."""
    x, y, width, height = box
    low, high = border, 1 - border
    edges = (x + low * width, y + low * height, x + high * width, y + high * height)
    return tuple(max(0, round(edge * scale)) for edge in edges)  # type: ignore[return-value]


def _moved(face: Face, here: np.ndarray, there: np.ndarray, scale: float) -> Face | None:
    """The face moved as its points did; None if too few agree or it changes its size too fast."""
    if len(here) < FEWEST_POINTS:
        return None
    matrix, agree = cv2.estimateAffinePartial2D(here, there, ransacReprojThreshold=RETURNED_WITHIN)
    if matrix is None or int(agree.sum()) < FEWEST_POINTS:
        return None
    zoom = math.hypot(matrix[0, 0], matrix[1, 0])
    if not 1 / LARGEST_ZOOM <= zoom <= LARGEST_ZOOM:
        return None

    def move(point: Point) -> Point:
        x, y = matrix @ (point[0] * scale, point[1] * scale, 1)
        return float(x) / scale, float(y) / scale

    x, y, width, height = face.box
    middle_x, middle_y = move((x + width / 2, y + height / 2))
    width, height = width * zoom, height * zoom
    first, second = sorted(move(eye) for eye in face.eyes)
    return replace(face, box=(middle_x - width / 2, middle_y - height / 2, width, height), eyes=(first, second))


def _inside(face: Face, small: np.ndarray, scale: float) -> bool:
    """Whether both eyes lie in the image."""
    height, width = small.shape
    return all(0 <= x * scale < width and 0 <= y * scale < height for x, y in face.eyes)


def _patch(small: np.ndarray, box: Box, scale: float) -> np.ndarray | None:
    """How a box looks, brightness and contrast aside: float32 (PATCH^2,) of mean 0 and length 1; None outside the image."""
    left, top, right, bottom = _edges(box, scale)
    inside = small[top:bottom, left:right]
    if min(inside.shape) < 4:
        return None
    patch = cv2.resize(inside, (PATCH, PATCH), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    patch -= patch.mean()
    return patch / max(float(np.linalg.norm(patch)), 1e-6)


def _overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    common = max(0.0, width) * max(0.0, height)
    union = a[2] * a[3] + b[2] * b[3] - common
    return common / union if union > 0 else 0.0
