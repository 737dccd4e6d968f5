"""Copies of images and videos with the readings drawn on them; never half a file, never over another."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from emotiw_keras.data.heif import HEIF_SUFFIXES
from emotiw_keras.data.images import SUFFIXES, ImageError
from emotiw_keras.data.video_files import VideoReader, quiet_opencv
from emotiw_keras.errors import OutputError
from emotiw_keras.files import make_folder, replace_flushed, write_encoded, writing
from emotiw_keras.serving.box_drawing import draw_readings
from emotiw_keras.serving.new_folder import NewFolder

if TYPE_CHECKING:
    from emotiw_keras.serving.input_images import Video
    from emotiw_keras.serving.readings import ImageReading

# Containers that can be written, and the codec in them; a video in another becomes NAME.mp4.
CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG", ".webm": "VP80"}
LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif", ".webp")
QUALITY = 95
# Where a container stores no number of frames, it follows from duration and rate.
COUNT_SLACK = 2
# Free bytes below which a disk counts as full where a video did not arrive: FFmpeg does not say why.
FULL_BELOW = 1 << 20
# Frames a second that are written at most: more are seldom seen, and some films without a rate claim 1000.
FASTEST_COPY = 60.0
# Seconds that a frame is shown at most, and how often it is written on average, so that time stamps fill no disk.
LONGEST_HOLD = 60
MOST_COPIES = 100
# Seconds that time stamps go back where they begin anew.
BACK = 1.0


class _NoEncoder(Exception):
    """Nothing here writes such a video; why, in words."""


class Annotator:
    """Writes annotated copies into a folder, each below its relative name; a video, once its last frame has come.

    Use it in a `with` block: what is not finished when it ends by an error is removed, except what a camera has sent.

    Args:
        folder: new or empty, so that nothing can be overwritten.
        inputs: names of what will be read; the folder must not lie in one of them, or its images would be read too.

    Attributes:
        left_out: why there is no copy of some videos, or a shorter one, each in a line.

    Raises:
        OutputError: the folder holds something, or cannot be written.
        UsageError: the folder is one of the inputs or lies in one.
    """

    def __init__(self, folder: str | os.PathLike[str], inputs: Sequence[str] = ()) -> None:
        self._folder = NewFolder(folder, inputs)
        self._video: Video | None = None
        self._writer: _VideoWriter | None = None
        self._without: Video | None = None
        self.left_out: list[str] = []

    def __enter__(self) -> Annotator:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            with self._folder.filling():
                self._end_video(kind is None)
        finally:
            self._folder.close()

    def _end_video(self, whole: bool) -> None:
        video, writer = self._video, self._writer
        self._video = self._writer = None
        if writer is None:
            return
        # A camera is always stopped by an interrupt.
        if whole or (video is not None and video.live):
            writer.finish()
            if video is not None and writer.cut:
                self.left_out.append(
                    f"the copy of {video.path} is {writer.cut:,.1f} s shorter: its frames are far apart, and one is shown for "
                    f"{LONGEST_HOLD} s at most and written {MOST_COPIES} times on average"
                )
        else:
            writer.discard()

    def write(self, reading: ImageReading) -> None:
        """Draw one image or the next frame of a video, and write it.

        Raises:
            OutputError: it cannot be written.
        """
        with self._folder.filling():
            self._write(reading)

    def _write(self, reading: ImageReading) -> None:
        if reading.video is not self._video:
            self._end_video(True)
            self._video = reading.video
        pixels = reading.image.pixels
        if pixels is None or (self._video is not None and self._video is self._without):
            return
        drawn = draw_readings(pixels, reading.faces)
        if self._video is None or self._video.stills:
            _write_image(drawn, self._place(reading.image.name, SUFFIXES - HEIF_SUFFIXES, ".png"))
            return
        if self._writer is None:
            place = self._place(self._video.name, frozenset(CODECS), ".mp4")
            try:
                self._writer = _VideoWriter(place, self._video.rate, drawn.shape[:2])
            except _NoEncoder as error:
                self._without = self._video
                self.left_out.append(f"no copy of {self._video.path}: {error}")
                return
        self._writer.write(drawn, reading.image.seconds)

    def _place(self, name: str, known: frozenset[str], otherwise: str) -> Path:
        """A path in the folder that is not yet taken: the name, with a second suffix if its own cannot be written."""
        stem, suffix = os.path.splitext(name)
        return self._folder.place(stem, suffix) if suffix.lower() in known else self._folder.place(name, otherwise)


def _write_image(pixels: np.ndarray, path: Path) -> None:
    from PIL import Image

    suffix = path.suffix.lower()
    options: dict[str, Any] = {"quality": QUALITY} if suffix in LOSSY else {}
    kind = Image.registered_extensions()[suffix]
    write_encoded(path, lambda file: Image.fromarray(pixels).save(file, format=kind, **options))


class _VideoWriter:
    """One video, under a temporary name until it is finished and has been read back.

    Videos are written at a constant rate: where the frames given come slower, the one before is shown for longer, and where
    they come faster, those that are a frame late or more are left out.

    Attributes:
        cut: seconds that the copy is shorter, because a frame was not shown for as long as it was to be.
    """

    def __init__(self, path: Path, rate: float, size: tuple[int, int]) -> None:
        import cv2

        quiet_opencv()
        self._path = path
        self._temporary = path.with_name(f".{os.getpid()}.{path.name}")
        self._size = size
        self._rate = rate = min(rate, FASTEST_COPY)
        self._given = self._frames = 0
        self._start: float | None = None
        self._seconds = 0.0
        self.cut = 0.0
        self._last: np.ndarray | None = None
        with writing(path):
            make_folder(path.parent)
        # The encoder would leave out the last row and column of odd sides.
        self._odd = (size[0] % 2, size[1] % 2)
        code = cv2.VideoWriter.fourcc(*CODECS[path.suffix.lower()])
        with _name_for_ffmpeg(self._temporary) as name:
            self._writer = cv2.VideoWriter(name, cv2.CAP_FFMPEG, code, rate, (size[1] + self._odd[1], size[0] + self._odd[0]))
        if not self._writer.isOpened():
            self.discard()
            raise _NoEncoder(f"no encoder for {size[1]} x {size[0]} pixels at {rate:g} frames a second")

    def write(self, pixels: np.ndarray, seconds: float | None = None) -> None:
        """Write the next frame; `seconds` is when it is shown, None for as soon as the rate has it."""
        import cv2

        if pixels.shape[:2] != self._size:
            # A video whose frames change their size; the encoder would drop them without a word.
            pixels = cv2.resize(pixels, self._size[::-1], interpolation=cv2.INTER_AREA)
        behind = 0 if seconds is None else self._behind(seconds)
        new = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
        new = cv2.copyMakeBorder(new, 0, self._odd[0], 0, self._odd[1], cv2.BORDER_REPLICATE)
        for frame in [self._last] * behind + [new] * (behind >= 0):
            self._writer.write(frame)
            self._frames += 1
        self._last = new

    def _behind(self, seconds: float) -> int:
        """How often the frame before is to be shown again; -1 where the one of this time comes too late to be shown."""
        if self._start is None or seconds < self._seconds - BACK:
            self._start = seconds - self._frames / self._rate
        self._seconds = seconds
        self._given += 1
        behind = (seconds - self._start) * self._rate - self._frames
        if behind < 1:
            return 0 if behind > -1 else -1
        longest = round(LONGEST_HOLD * self._rate)
        held = max(0, min(round(behind), longest, longest + MOST_COPIES * self._given - self._frames))
        missing = (round(behind) - held) / self._rate
        self.cut += missing
        self._start += missing  # what follows is as much earlier
        return held

    def finish(self) -> None:
        """Close the video and give it its name.

        Raises:
            OutputError: it does not hold what was written, as when the disk is full, which the encoder does not report.
        """
        self._writer.release()
        try:
            with VideoReader(self._temporary) as video:
                kept = video.promised
        except ImageError:
            kept = 0
        if kept < max(1, self._frames - COUNT_SLACK):
            full = shutil.disk_usage(self._path.parent).free < FULL_BELOW
            self.discard()
            with writing(self._path):
                if full:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise OutputError(f"cannot write {self._path}: {kept:,} of {self._frames:,} frames arrived; is the disk full?")
        with writing(self._path):
            replace_flushed(self._temporary, self._path)

    def discard(self) -> None:
        """Close the video and remove it."""
        self._writer.release()
        self._temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _name_for_ffmpeg(path: Path) -> Iterator[str]:
    """A name under which FFmpeg can create a file, whatever it is called: absolute, so that no part of it is a protocol, and
    through a link where it is no UTF-8.
    """
    name = os.path.abspath(path)
    try:
        name.encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            link = os.path.join(folder, f"video{path.suffix.lower()}")
            os.symlink(name, link)
            yield link
    else:
        yield name
