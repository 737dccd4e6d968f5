"""From pictures and films to readings: the faces of many pictures are computed together, the answers keep their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from emotiw_keras.data.ahead import ahead as made_ahead
from emotiw_keras.errors import UsageError
from emotiw_keras.faces.face import turned_back
from emotiw_keras.serving.input_images import Film, Picture
from emotiw_keras.serving.readings import NO_FACE, Box, PictureReading, Reading
from emotiw_keras.serving.tracking import MEMORY, Tracker

if TYPE_CHECKING:
    from emotiw_keras.faces.face import Face, Point
    from emotiw_keras.serving.predictor import Predictor

# Pictures whose pixels are kept for drawing wait for a full batch only until they fill this.
KEPT_BYTES = 128 * 2**20
# Pictures that wait for a full batch, each full batch of faces having come from at least a quarter as many.
PICTURES_A_FACE = 4
FOUND_AHEAD = 4
# Degrees of the line between the eyes. Faces of turned photos are found by chance, and what is found is often none.
DOUBTFUL_TILT = 45.0


@dataclass(frozen=True)
class _Crop:
    """A face on its way: where it is, and the uint8 (side, side, channels) that the network gets."""

    number: int
    box: Box
    eyes: tuple[Point, Point] | None
    score: float | None
    pixels: np.ndarray
    doubt: str | None = None


@dataclass(frozen=True)
class _Found:
    """A picture on its way, with its faces; `smoother` belongs to its film."""

    picture: Picture
    film: Film | None
    crops: list[_Crop]
    smoother: Smoother | None


class Smoother:
    """Mean of the probabilities of each face over its last frames."""

    def __init__(self, frames: int) -> None:
        self._frames = frames
        self._past: dict[int, deque[np.ndarray]] = {}
        self._seen: dict[int, int] = {}
        self._now = 0

    def mean(self, numbers: list[int], probabilities: np.ndarray) -> np.ndarray:
        """Probabilities of the faces of the next frame, float32 (n, classes) -> their means over time, of the same shape."""
        self._now += 1
        for number, row in zip(numbers, probabilities, strict=True):
            self._past.setdefault(number, deque(maxlen=self._frames)).append(row)
            self._seen[number] = self._now
        # A face that has been away so long comes back under another number.
        for number in [number for number, seen in self._seen.items() if self._now - seen > MEMORY]:
            del self._past[number], self._seen[number]
        return np.array([np.mean(self._past[number], axis=0) for number in numbers], np.float32).reshape(probabilities.shape)


class Pipeline:
    """Reads pictures and films with a predictor.

    Args:
        predictor: what answers.
        whole: each picture is one face, already cropped; else its faces are found.
        every: the detector looks at every so many frames of a film.
        smooth: frames over which the answers for a face of a film are averaged; or a function from the film's frames a
            second to that number.
        ahead: frames of a film that are read before their faces are computed; by default as many as make a full batch.
        keep_pixels: leave the pixels with the readings, to draw on.
        keep_crops: leave the faces with the readings as the network gets them.
        turned: look at a photo in which no face was found again, turned by 90, 270 and 180 degrees; its `notes` say so.

    Raises:
        UsageError: a number below 1.
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        whole: bool = False,
        every: int = 1,
        smooth: int | Callable[[float], int] = 1,
        ahead: int | None = None,
        keep_pixels: bool = False,
        keep_crops: bool = False,
        turned: bool = False,
    ) -> None:
        for name, value in (("every", every), ("smooth", smooth), ("ahead", ahead)):
            if isinstance(value, int) and value < 1:
                raise UsageError(f"{name}={value}: expected at least 1")
        self._predictor = predictor
        self._whole = whole
        self._every = every
        self._smooth = smooth
        self._ahead = ahead
        self._keep_pixels = keep_pixels
        self._keep_crops = keep_crops
        self._turned = turned

    def read(self, inputs: Iterable[Picture | Film], threads: bool = False) -> Generator[PictureReading, None, None]:
        """One reading per image or frame, in their order.

        Args:
            inputs: what to read.
            threads: whether faces may be found in another thread while the network computes.

        Raises:
            ModelError, UsageError: as `Predictor.detector`.
        """
        if not self._whole:
            _ = self._predictor.detector  # a missing one is reported before the first picture is read
        found = self._found(inputs)
        return self._classified(made_ahead(found, FOUND_AHEAD) if threads else found)

    def _found(self, inputs: Iterable[Picture | Film]) -> Iterator[_Found]:
        for source in inputs:
            if isinstance(source, Picture):
                yield self._find(source, None, None, None)
                continue
            tracker = None if self._whole else Tracker(self._predictor.film_detector, self._every)
            frames = self._smooth if isinstance(self._smooth, int) else max(1, self._smooth(source.rate))
            smoother = Smoother(frames) if frames > 1 else None
            for picture in source.frames:
                yield self._find(picture, source, tracker, smoother)

    def _find(self, picture: Picture, film: Film | None, tracker: Tracker | None, smoother: Smoother | None) -> _Found:
        pixels = picture.pixels
        if pixels is None:
            return _Found(picture, film, [], smoother)
        if self._whole:
            box = (0, 0, pixels.shape[1], pixels.shape[0])
            crops = [_Crop(0, box, None, None, self._predictor.prepare(pixels))]
        else:
            image = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
            faces = enumerate(self._predictor.detector.detect(image)) if tracker is None else tracker.follow(image)
            crops = [self._crop(image, number, face) for number, face in faces]
            if not crops and self._turned and film is None:
                picture, crops = self._look_turned(picture, image)
        # Gone as soon as it is not needed: a photo may have 200 MB.
        kept = picture if self._keep_pixels else replace(picture, pixels=None)
        return _Found(kept, film, crops, smoother)

    def _look_turned(self, picture: Picture, image: np.ndarray) -> tuple[Picture, list[_Crop]]:
        """The faces of the first turn that shows some, with their places in the picture as it is, and a note on it."""
        for quarters, degrees in ((1, "90 degrees to the left"), (3, "90 degrees to the right"), (2, "180 degrees")):
            turned = np.ascontiguousarray(np.rot90(image, quarters))
            faces = self._predictor.detector.detect(turned)
            if faces:
                height, width = image.shape[:2]
                back = [turned_back(face, quarters, width, height) for face in faces]
                crops = [self._crop(turned, number, face) for number, face in enumerate(faces)]
                crops = [replace(crop, box=face.box, eyes=face.eyes) for crop, face in zip(crops, back, strict=True)]
                return replace(picture, notes=(*picture.notes, f"faces found only when turned by {degrees}")), crops
        return picture, []

    def _crop(self, image: np.ndarray, number: int, face: Face) -> _Crop:
        doubt = f"tilted by {abs(face.roll):.0f} degrees" if abs(face.roll) > DOUBTFUL_TILT else None
        return _Crop(number, face.box, face.eyes, face.score, self._predictor.cut(image, face), doubt)

    def _classified(self, found: Iterable[_Found]) -> Generator[PictureReading, None, None]:
        waiting: list[_Found] = []
        for each in found:
            waiting.append(each)
            if self._is_full(waiting):
                yield from self._batch(waiting)
                waiting = []
        yield from self._batch(waiting)

    def _is_full(self, waiting: list[_Found]) -> bool:
        last = waiting[-1].film
        if last is not None and (last.live or len(waiting) == self._ahead):
            return True
        size = self._predictor.batch_size
        if len(waiting) >= PICTURES_A_FACE * size or sum(len(each.crops) for each in waiting) >= size:
            return True
        return sum(each.picture.pixels.nbytes for each in waiting if each.picture.pixels is not None) >= KEPT_BYTES

    def _batch(self, waiting: list[_Found]) -> Iterator[PictureReading]:
        rows = self._predictor.classify([crop.pixels for each in waiting for crop in each.crops])
        start = 0
        for each in waiting:
            mine = rows[start : start + len(each.crops)]
            start += len(each.crops)
            if each.smoother is not None:
                mine = each.smoother.mean([crop.number for crop in each.crops], mine)
            faces = tuple(self._reading(crop, row) for crop, row in zip(each.crops, mine, strict=True))
            error = each.picture.error or (None if faces else NO_FACE)
            crops = tuple(crop.pixels for crop in each.crops) if self._keep_crops else ()
            yield PictureReading(each.picture, each.film, faces, error, crops)

    def _reading(self, crop: _Crop, row: np.ndarray) -> Reading:
        labels = self._predictor.labels
        probabilities = {label: float(value) for label, value in zip(labels, row, strict=True)}
        return Reading(crop.number, crop.box, crop.eyes, crop.score, labels[int(row.argmax())], probabilities, crop.doubt)
