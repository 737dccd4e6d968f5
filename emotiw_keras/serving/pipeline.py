"""From images and videos to readings: the faces of many images are computed together, the answers keep their order."""

from __future__ import annotations

import itertools
import math
import re
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, cast

import numpy as np

from emotiw_keras.arguments import whole_number, whole_or_none
from emotiw_keras.data.prefetch import ahead as made_ahead
from emotiw_keras.data.prefetch import map_ahead
from emotiw_keras.errors import UsageError
from emotiw_keras.faces.face import turned_back
from emotiw_keras.hardware import processor_threads
from emotiw_keras.serving.input_images import InputImage, Video
from emotiw_keras.serving.readings import NO_FACE, Box, ImageReading, Reading
from emotiw_keras.serving.tracking import MEMORY, Tracker
from emotiw_keras.uncertainty import derived_affect, entropy, named

if TYPE_CHECKING:
    from emotiw_keras.faces.face import Detector, Face, Point
    from emotiw_keras.serving.predictor import Predictor

# Images whose pixels are kept for drawing wait for a full batch only until they fill this.
KEPT_BYTES = 128 * 2**20
# Images that wait for a full batch, each full batch of faces having come from at least a quarter as many.
IMAGES_A_FACE = 4
FOUND_AHEAD = 4
# Degrees of the line between the eyes. Faces of turned photos are found by chance, and what is found is often none.
DOUBTFUL_TILT = 45.0
# Seconds that are averaged at least, and frames or seconds at most.
SHORTEST, LONGEST = 0.001, 1_000_000
# Seconds that time stamps are off by their rounding.
CLOCK = 0.0005
_WINDOW = re.compile(r"(\d+(?:\.\d+)?)s|(\d+)")


@dataclass(frozen=True)
class _CutFace:
    """A face on its way: where it is, and the uint8 (side, side, channels) that the network gets."""

    number: int
    box: Box
    eyes: tuple[Point, Point] | None
    score: float | None
    pixels: np.ndarray
    doubt: str | None = None


@dataclass(frozen=True)
class _Found:
    """An image on its way, with its faces; `smoother` belongs to its video."""

    image: InputImage
    video: Video | None
    cut_faces: list[_CutFace]
    smoother: Smoother | None


def window(text: str) -> int | timedelta:
    """What of a video is averaged: of "0.5s" half a second, of "12" twelve frames.

    Raises:
        UsageError: it is neither.

    Example:
        >>> window("0.5s"), window("12")
        (datetime.timedelta(microseconds=500000), 12)
    """
    match = _WINDOW.fullmatch(text.strip())
    if match is None or float(match[1] or match[2]) < (SHORTEST if match[1] else 1):
        raise UsageError(f"{text!r}: expected seconds such as 0.5s, or a number of frames such as 12")
    if float(match[1] or match[2]) > LONGEST:
        raise UsageError(f"{text!r}: expected at most {LONGEST:,}")
    return int(match[2]) if match[2] else timedelta(seconds=float(match[1]))


class Smoother:
    """Mean of the probabilities of each face over its last frames.

    Args:
        last: how many frames, or how long before a frame the earliest of them was shown.
    """

    def __init__(self, last: int | timedelta) -> None:
        self._frames = None if isinstance(last, timedelta) else int(last)
        self._seconds = last.total_seconds() - CLOCK if isinstance(last, timedelta) else math.inf
        self._past: dict[int, deque[tuple[float, np.ndarray]]] = {}
        self._seen: dict[int, int] = {}
        self._now = 0

    def mean(self, numbers: list[int], probabilities: np.ndarray, seconds: float = 0.0) -> np.ndarray:
        """Probabilities of the faces of the next frame, float32 (n, classes) -> their means over time, of the same shape.

        Args:
            numbers: of the faces.
            probabilities: theirs.
            seconds: when the frame is shown.
        """
        self._now += 1
        for number, row in zip(numbers, probabilities, strict=True):
            past = self._past.setdefault(number, deque(maxlen=self._frames))
            past.append((seconds, row))
            while len(past) > 1 and seconds - past[0][0] > self._seconds:
                past.popleft()
            self._seen[number] = self._now
        # A face that has been away so long comes back under another number.
        for number in [number for number, seen in self._seen.items() if self._now - seen > MEMORY]:
            del self._past[number], self._seen[number]
        means = [np.mean([row for _, row in self._past[number]], axis=0) for number in numbers]
        return np.array(means, np.float32).reshape(probabilities.shape)


class Pipeline:
    """Reads images and videos with a predictor.

    Args:
        predictor: what answers.
        whole: each image is one face, already cropped; else its faces are found.
        every: the detector looks at every so many frames of a video.
        smooth: frames over which the answers for a face of a video are averaged, or how long before a frame, by the video's
            time stamps.
        ahead: frames of a video that are read before their faces are computed; by default as many as make a full batch.
        keep_pixels: leave the pixels with the readings, to draw on.
        keep_faces: leave the faces with the readings as the network gets them.
        turned: look at a photo in which no face was found again, turned by 90, 270 and 180 degrees; its `notes` say so.

    Raises:
        UsageError: no whole number, or one below 1.
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        whole: bool = False,
        every: int = 1,
        smooth: int | timedelta = 1,
        ahead: int | None = None,
        keep_pixels: bool = False,
        keep_faces: bool = False,
        turned: bool = False,
    ) -> None:
        every, ahead = whole_number("every", every, 1), whole_or_none("ahead", ahead, 1)
        if not isinstance(smooth, timedelta):
            smooth = whole_number("smooth", smooth, 1)
        elif smooth <= timedelta(0):
            raise UsageError(f"smooth = {smooth}: expected more than 0 seconds")
        self._predictor = predictor
        self._whole = whole
        self._every = every
        self._smooth = smooth
        self._ahead = ahead
        self._keep_pixels = keep_pixels
        self._keep_faces = keep_faces
        self._turned = turned

    def read(self, inputs: Iterable[InputImage | Video], threads: bool = False) -> Generator[ImageReading, None, None]:
        """One reading per image or frame, in their order.

        Args:
            inputs: what to read.
            threads: whether faces may be found in other threads while the network computes: of several images at once, and of
                several frames of a video that is not live, where the detector looks at each.

        Raises:
            ModelError, UsageError: as `Predictor.detector`.
        """
        if not self._whole:
            _ = self._predictor.detector  # a missing one is reported before the first image is read
        found = self._found(inputs, processor_threads() if threads else 1)
        return self._classified(made_ahead(found, FOUND_AHEAD) if threads else found)

    def _found(self, inputs: Iterable[InputImage | Video], threads: int) -> Iterator[_Found]:
        for still, group in itertools.groupby(inputs, lambda source: isinstance(source, InputImage)):
            if not still:
                yield from self._found_in_videos(cast("Iterator[Video]", group), threads)
                continue
            detector = None if self._whole else self._predictor.detector
            images = ((cast("InputImage", image), detector) for image in group)
            if threads == 1:
                yield from itertools.starmap(self._find_in_image, images)
            else:
                yield from map_ahead(lambda pair: self._find_in_image(*pair), images, threads)

    def _found_in_videos(self, videos: Iterable[Video], threads: int) -> Iterator[_Found]:
        for source in videos:
            smoother = None if self._smooth == 1 else Smoother(self._smooth)
            for image, cut_faces in self._cut_of_frames(source, 1 if source.live else threads):
                yield _Found(self._kept(image), source, cut_faces, smoother)

    def _cut_of_frames(self, source: Video, threads: int) -> Iterator[tuple[InputImage, list[_CutFace]]]:
        if self._whole:
            for image in source.frames:
                yield image, [] if image.pixels is None else [self._uncut(image.pixels)]
            return
        detector = self._predictor.video_detector
        tracker = Tracker(detector, self._every)

        def look(image: InputImage) -> tuple[InputImage, list[Face] | None]:
            return image, None if image.pixels is None else detector.detect(image.array)

        ahead = threads > 1 and self._every == 1  # then it is the detector's turn in each frame, whatever the others show
        looked = map_ahead(look, source.frames, threads) if ahead else ((image, None) for image in source.frames)
        for image, found in looked:
            faces = [] if image.pixels is None else tracker.follow(image.array, found)
            yield image, [self._cut(image.array, number, face) for number, face in faces]

    def _find_in_image(self, image: InputImage, detector: Detector | None) -> _Found:
        pixels, cut_faces = image.pixels, list[_CutFace]()
        if pixels is not None and detector is None:
            cut_faces = [self._uncut(pixels)]
        elif pixels is not None and detector is not None:
            array = image.array
            cut_faces = [self._cut(array, number, face) for number, face in enumerate(detector.detect(array))]
            if not cut_faces and self._turned:
                image, cut_faces = self._look_turned(image, array, detector)
        return _Found(self._kept(image), None, cut_faces, None)

    def _uncut(self, pixels: np.ndarray) -> _CutFace:
        return _CutFace(0, (0, 0, pixels.shape[1], pixels.shape[0]), None, None, self._predictor.prepare(pixels))

    def _kept(self, image: InputImage) -> InputImage:
        """Without its pixels as soon as they are not needed: a photo may have 200 MB."""
        return image if self._keep_pixels else replace(image, pixels=None)

    def _look_turned(self, image: InputImage, array: np.ndarray, detector: Detector) -> tuple[InputImage, list[_CutFace]]:
        """The faces of the first turn that shows upright ones, else of the first that shows any, with their places in the image
        as it is, and a note on it."""
        best: tuple[int, str, np.ndarray, list[Face]] | None = None
        for quarters, degrees in ((1, "90 degrees to the left"), (3, "90 degrees to the right"), (2, "180 degrees")):
            turned = np.ascontiguousarray(np.rot90(array, quarters))
            faces = detector.detect(turned)
            upright = any(abs(face.roll) <= DOUBTFUL_TILT for face in faces)
            if upright or (faces and best is None):
                best = quarters, degrees, turned, faces
            if upright:
                break
        if best is None:
            return image, []
        quarters, degrees, turned, faces = best
        height, width = array.shape[:2]
        back = [turned_back(face, quarters, width, height) for face in faces]
        cut_faces = [self._cut(turned, number, face) for number, face in enumerate(faces)]
        cut_faces = [replace(cut_face, box=face.box, eyes=face.eyes) for cut_face, face in zip(cut_faces, back, strict=True)]
        return replace(image, notes=(*image.notes, f"faces found only when turned by {degrees}")), cut_faces

    def _cut(self, array: np.ndarray, number: int, face: Face) -> _CutFace:
        doubt = f"tilted by {abs(face.roll):.0f} degrees" if abs(face.roll) > DOUBTFUL_TILT else None
        return _CutFace(number, face.box, face.eyes, face.score, self._predictor.cut(array, face), doubt)

    def _classified(self, found: Iterable[_Found]) -> Generator[ImageReading, None, None]:
        waiting: list[_Found] = []
        for each in found:
            waiting.append(each)
            if self._is_full(waiting):
                yield from self._batch(waiting)
                waiting = []
        yield from self._batch(waiting)

    def _is_full(self, waiting: list[_Found]) -> bool:
        last = waiting[-1].video
        if last is not None and (last.live or len(waiting) == self._ahead):
            return True
        size = self._predictor.batch_size
        if len(waiting) >= IMAGES_A_FACE * size or sum(len(each.cut_faces) for each in waiting) >= size:
            return True
        return sum(each.image.pixels.nbytes for each in waiting if each.image.pixels is not None) >= KEPT_BYTES

    def _batch(self, waiting: list[_Found]) -> Iterator[ImageReading]:
        rows = self._predictor.classify([cut_face.pixels for each in waiting for cut_face in each.cut_faces])
        start = 0
        for each in waiting:
            mine = rows[start : start + len(each.cut_faces)]
            start += len(each.cut_faces)
            if each.smoother is not None:
                mine = each.smoother.mean([cut_face.number for cut_face in each.cut_faces], mine, each.image.seconds or 0.0)
            faces = tuple(self._reading(cut_face, row) for cut_face, row in zip(each.cut_faces, mine, strict=True))
            error = each.image.error or (None if faces else NO_FACE)
            cut_faces = tuple(cut_face.pixels for cut_face in each.cut_faces) if self._keep_faces else ()
            yield ImageReading(each.image, each.video, faces, error, cut_faces)

    def _reading(self, cut_face: _CutFace, row: np.ndarray) -> Reading:
        labels, limit = self._predictor.labels, self._predictor.usable_entropy
        probabilities = named(labels, row)
        return Reading(
            cut_face.number,
            cut_face.box,
            cut_face.eyes,
            cut_face.score,
            labels[int(row.argmax())],
            probabilities,
            cut_face.doubt,
            None if limit is None else bool(entropy(row) > limit),
            derived_affect(probabilities),
        )
