"""One image -> its aligned faces on disk and its rows of `faces.csv`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np

from emotiw_keras.data.archive import LINK_OUT, Archive
from emotiw_keras.data.images import ImageError, decode_image
from emotiw_keras.data.layouts.prepared import FACES_COLUMNS, OK
from emotiw_keras.data.prepare.face_settings import Settings
from emotiw_keras.data.prepare.source import Item
from emotiw_keras.data.resize import resize, to_grey
from emotiw_keras.data.video_files import is_video, sample_frames
from emotiw_keras.errors import DataError, OutputError
from emotiw_keras.faces.alignment import align, stretched
from emotiw_keras.faces.face import Detector, Face
from emotiw_keras.files import is_within, write_atomic

NO_FACE = "no face found"
CENTRE = "no face found: centre of the image"
UNREADABLE = "unreadable: "

Row = dict[str, str]


@dataclass
class Outcome:
    """What came of one image: its rows, seconds of each step, whether a later run may rely on it, remarks on its reading."""

    index: int
    rows: list[Row]
    seconds: dict[str, float] = field(default_factory=dict)
    lasting: bool = True
    notes: list[str] = field(default_factory=list)


class FaceCutter:
    """Reads images of one source, finds and cuts their faces, and writes them below one folder."""

    def __init__(self, archive: Archive, detector: Detector, settings: Settings, out: Path) -> None:
        self._archive = archive
        self._detector = detector
        self._settings = settings
        self._out = out

    def cut(self, item: Item) -> Outcome:
        """Cut the faces of one image; one that cannot be read, or without a face, is a row that says so.

        Raises:
            OutputError: a face cannot be written.
        """
        if is_video(item.member):
            return self._video(item)
        clock, notes = _Clock(), list[str]()
        try:
            image = decode_image(self._read(item), notes=notes)
        except ImageError as error:
            return Outcome(item.index, [failed(item, str(error))])
        except MemoryError:
            return Outcome(item.index, [failed(item, "not enough memory for it")], lasting=False)
        clock.stop("reading")
        return Outcome(item.index, self._image(item, image, clock), clock.seconds, notes=notes)

    def _read(self, item: Item) -> bytes:
        return self._archive.read(item.member)

    def _frames(self, item: Item) -> Iterator[tuple[int, np.ndarray]]:
        folder = self._archive.path
        if self._archive.leads_out(item.member):
            raise ImageError(LINK_OUT)
        video = folder / item.member if folder.is_dir() else self._archive.read(item.member)
        return sample_frames(video, self._settings.frames)

    def _image(self, item: Item, image: np.ndarray, clock: _Clock) -> list[Row]:
        faces = self._detector.detect(image[..., 0] if image.shape[2] == 1 else image)
        clock.stop("detection")
        return self._faces(item, image, faces, clock) if faces else [self._without_face(item, image, clock)]

    def _video(self, item: Item) -> Outcome:
        """The faces of some frames of a video; where it breaks off, the rows end with one that says so."""
        clock, rows = _Clock(), []
        try:
            for number, image in self._frames(item):
                clock.stop("reading")
                rows += self._image(replace(item, stem=f"{item.stem}.f{number:05d}", frame=number), image, clock)
        except ImageError as error:
            rows.append(failed(item, str(error)))
        return Outcome(item.index, rows, clock.seconds)

    def _faces(self, item: Item, image: np.ndarray, faces: Sequence[Face], clock: _Clock) -> list[Row]:
        chosen = choose(faces, image.shape, self._settings.faces)
        rows = []
        for number, face in enumerate(faces):
            row = _row(item, face=str(number), box=face.box, eyes=face.eyes)
            row.update(detector_score=f"{face.score:.4f}", roll_degrees=f"{face.roll:.2f}")
            if number not in chosen:
                row["status"] = f"not the {self._settings.faces} face"
            else:
                try:
                    crop = align(image, face.eyes, self._settings.side, self._settings.reading)
                except DataError as error:
                    row["status"] = f"cannot be aligned: {error}"
                else:
                    clock.stop("alignment")
                    extra = f".face{number}" if self._settings.faces == "all" and number else ""
                    self._write(row, crop, f"{item.stem}{extra}.png")
                    clock.stop("writing")
            rows.append(row)
        return rows

    def _without_face(self, item: Item, image: np.ndarray, clock: _Clock) -> Row:
        if self._settings.no_face == "skip":
            return _row(item, status=NO_FACE)
        height, width = image.shape[:2]
        side = min(height, width)
        left, top = (width - side) // 2, (height - side) // 2
        square = to_grey(image[top : top + side, left : left + side])
        crop = stretched(resize(square, self._settings.side, self._settings.side)[..., 0])
        clock.stop("alignment")
        row = _row(item, status=CENTRE, box=(left, top, side, side))
        self._write(row, crop, f"{item.stem}.png")
        clock.stop("writing")
        return row

    def _write(self, row: Row, crop: np.ndarray, output: str) -> None:
        row.update(sharpness=f"{sharpness(crop):.2f}", output=output)
        done, data = cv2.imencode(".png", crop)
        if not done:
            raise DataError(f"{row['path']}: its face cannot be encoded as PNG")
        self._save(output, data.tobytes())

    def _save(self, output: str, data: bytes) -> None:
        if not is_within(self._out, self._out / output):
            raise OutputError(f"{self._out / output}: its folder is a link out of {self._out}; name another folder")
        write_atomic(self._out / output, data)


class _Clock:
    """Adds up the seconds between stops, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def stop(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


def choose(faces: Sequence[Face], shape: Sequence[int], which: str) -> set[int]:
    """Indices of the faces to cut out of an image of this shape: the "largest", "all", or the most "central"."""
    if which == "all":
        return set(range(len(faces)))
    height, width = shape[:2]

    def off_centre(number: int) -> float:
        x, y, w, h = faces[number].box
        return (x + (w - width) / 2) ** 2 + (y + (h - height) / 2) ** 2

    def smallness(number: int) -> float:
        return -faces[number].box[2] * faces[number].box[3]

    return {min(range(len(faces)), key=smallness if which == "largest" else off_centre)}


def sharpness(face: np.ndarray) -> float:
    """Variance of the Laplacian of a grey face as it is written: low where it is blurred or was small."""
    return float(cv2.Laplacian(face, cv2.CV_64F).var())


def failed(item: Item, reason: str) -> Row:
    """The row of an image that cannot be read."""
    return _row(item, status=UNREADABLE + " ".join(reason.split()))


def _row(
    item: Item,
    *,
    status: str = OK,
    face: str = "",
    box: Sequence[float] | None = None,
    eyes: Sequence[Sequence[float]] | None = None,
) -> Row:
    row = dict.fromkeys(FACES_COLUMNS, "")
    row.update(path=item.path, face=face, label=item.label, split=item.split, status=status)
    if item.frame is not None or item.subject:
        row.update(subject=item.subject, frame="" if item.frame is None else str(item.frame))
    if box is not None:
        row.update(zip(("x", "y", "width", "height"), map(_pixels, box), strict=True))
    if eyes is not None:
        flat = [value for point in eyes for value in point]
        row.update(zip(("left_x", "left_y", "right_x", "right_y"), map(_pixels, flat), strict=True))
    return row


def _pixels(value: float) -> str:
    # Adding zero turns -0.0 into 0.0.
    return f"{round(float(value), 2) + 0.0:.2f}".rstrip("0").rstrip(".")
