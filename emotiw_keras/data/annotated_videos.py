"""A set of annotated videos as a `FaceSet` of frames: numbers in arrays, never an object for each of millions of frames."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from emotiw_keras.data.archive import printable, read_file
from emotiw_keras.data.columns import FramePaths, Repeated
from emotiw_keras.data.faceset import HELD_OUT, OK, FaceSet
from emotiw_keras.data.images import ImageError, decode_image, read_header
from emotiw_keras.data.layouts.affwild2 import FACES, Frames, ranges

# No face is cut out larger, and each thread holds an image.
MAX_PIXELS = 8_000_000


@dataclass(frozen=True)
class Table:
    """The videos of a set; lists have one entry a video, in the order of their names.

    Attributes:
        root: the folder that holds `cropped_aligned`.
        classes: the class names of the annotations, as they write them.
        names: of the videos.
        recordings: what each was cut from, `_left` and `_right` removed.
        split: "train", "val" or "test".
        labels: int8 (frames of the video,), by the set's labels; row i is frame i + 1; -1 is no label.
        frames: the images there are.
        identity: BLAKE2b of the numbers of all images and the pixels of eight: the same images, the same identity.
        annotation: BLAKE2b of labels and class names.
    """

    root: Path
    classes: tuple[str, ...]
    names: list[str]
    recordings: list[str]
    split: list[str]
    labels: list[np.ndarray]
    frames: list[Frames]
    identity: list[str]
    annotation: list[str]

    def paths(self, video: np.ndarray, frame: np.ndarray, *, text: bool = False) -> FramePaths:
        """Names of frames inside the source, as files have them or as `text` that can be written anywhere."""
        names = map(printable, self.names) if text else self.names
        return FramePaths([f"{FACES}/{name}" for name in names], [each.form for each in self.frames], video, frame)

    def labelled(self, video: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the labelled frames of a video, int32: those with an image, and those without."""
        numbers = np.flatnonzero(self.labels[video] >= 0).astype(np.int32) + 1
        there = np.isin(numbers, self.frames[video].number, assume_unique=True)
        return numbers[there], numbers[~there]

    def beyond(self, video: int) -> int:
        """Images of a video without a row in its annotation."""
        number = self.frames[video].number
        return int(((number < 1) | (number > len(self.labels[video]))).sum())


@dataclass
class VideoSet(FaceSet):
    """Frames of annotated videos; a video is never split over sets. `pixel_hash` and `subject` are those of a frame's video.

    Attributes:
        table: the videos.
        video: int32 (frames,), position in `table`.
        frame: int32 (frames,), frame number, the first of a video is 1.
        content: uint32 (frames,), CRC-32 of the file; 0 where it was not read.
    """

    table: Table = field(kw_only=True)
    video: np.ndarray = field(kw_only=True)
    frame: np.ndarray = field(kw_only=True)
    content: np.ndarray = field(kw_only=True)

    @property
    def readable(self) -> np.ndarray:
        """bool (frames,), whether the frame's file could be read."""
        assert isinstance(self.status, Repeated)
        return self.status.number == 0

    def take(self, rows: np.ndarray) -> VideoSet:
        """The set of some of the frames, numbered anew from 0."""
        taken = super().take(rows)
        assert isinstance(taken, VideoSet)
        return replace(taken, video=self.video[rows], frame=self.frame[rows], content=self.content[rows])

    def unreadable(self) -> list[tuple[str, str]]:
        """(path, why) of the frames that cannot be used."""
        return [(self.paths[i], status) for i, status in enumerate(self.status) if status != OK]

    def identities(self, rows: np.ndarray) -> Iterator[str]:
        """Video, frame number and checksum."""
        return (f"{self.pixel_hash[i]}:{self.frame[i]}:{self.content[i]:08x}" for i in rows)

    def facts(self) -> dict[str, Any]:
        """What run.json says of the set; a run goes on only with data that say the same."""
        digest = hashlib.sha256(repr((self.table.names, self.table.identity, self.table.annotation, self.labels)).encode())
        for column in (self.video, self.frame, self.label.astype(np.int8), self.content):
            digest.update(np.ascontiguousarray(column).tobytes())
        for video in range(len(self.table.names)):
            digest.update(self.table.split[video].encode())
        facts = {"layout": self.layout, "videos": len(self.table.names), "images": len(self.video)}
        return {**facts, "fingerprint": digest.hexdigest()[:16]}

    def records(self, roles: Mapping[str, np.ndarray]) -> Iterator[dict[str, str]]:
        """Rows of data.csv, one a video: the role its frames have, and what became of each labelled frame."""
        table = self.table
        usable = self.label >= 0
        used = np.bincount(self.video[usable], minlength=len(table.names))
        broken = np.bincount(self.video[~usable], minlength=len(table.names))
        status = np.where(used > 0, HELD_OUT, "no frames").astype(object)
        for role, rows in roles.items():
            status[np.unique(self.video[rows])] = role
        for video, name in enumerate(table.names):
            there, missing = table.labelled(video)
            yield {
                "data": self.name,
                "path": f"{FACES}/{printable(name)}",
                "pixel_hash": table.identity[video],
                "label": "",
                "subject": printable(table.recordings[video]),
                "split": table.split[video],
                "status": str(status[video]),
                "frames": str(used[video]),
                "skipped": str(len(there) - used[video] - broken[video]),
                "unlabelled": str(int((table.labels[video] < 0).sum())),
                "missing": str(len(missing)),
                "unreadable": str(broken[video]),
                "beyond": str(table.beyond(video)),
                "missing_frames": ranges(missing),
                "annotation": table.annotation[video],
            }


class FrameImages:
    """The images of frames, read when they are asked for."""

    def __init__(self, root: Path, paths: FramePaths) -> None:
        self._root, self._paths = str(root), paths

    def read(self, index: int) -> bytes:
        """The bytes of one file."""
        return read_file(f"{self._root}/{self._paths[index]}")

    def shape(self, index: int) -> tuple[int, int, int]:
        """(height, width, channels) from the header."""
        header = read_header(self.read(index), max_pixels=MAX_PIXELS)
        return header.height, header.width, header.channels

    def image(self, index: int) -> np.ndarray:
        """uint8 (height, width, 1) grey or (height, width, 3) RGB; the error names the file."""
        try:
            return decode_image(self.read(index), max_pixels=MAX_PIXELS)
        except ImageError as error:
            raise ImageError(f"{self._paths[index]}: {error}") from error
