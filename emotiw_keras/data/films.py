"""Films as sources of pictures: what a film is called, and some of its frames, evenly spread."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emotiw_keras.data.images import MAX_PIXELS, ImageError

if TYPE_CHECKING:
    import cv2

FILM_SUFFIXES = frozenset(".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .wmv .flv .3gp .ogv .ts .mts .m2ts".split())

# Container and codec may disagree by so many frames.
MISSING_FRAMES = 2


def is_film(name: str) -> bool:
    """Whether a file's name says that it is a film."""
    return os.path.splitext(name)[1].lower() in FILM_SUFFIXES


def quiet_opencv() -> None:
    """Keep what FFmpeg and OpenCV mutter off the terminal, and let a film's container open no other address."""
    import cv2

    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "protocol_whitelist;file")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def sample_frames(path: Path, count: int) -> Iterator[tuple[int, np.ndarray]]:
    """The frames in the middle of `count` equal parts of a film, one in memory at a time; all of them if it has no more.

    Args:
        path: the film.
        count: frames, at least 1.

    Yields:
        (frame number from 0, uint8 (height, width, 3) RGB).

    Raises:
        ImageError: it cannot be opened, holds no frame or too large ones, or ends before the frames it promises.
    """
    import cv2

    quiet_opencv()
    total = _frames(path)
    wanted = [int((i + 0.5) * total / count) for i in range(count)] if total > count else list(range(total))
    capture = _open(path)
    try:
        number = -1
        for place in wanted:
            while number < place:
                if not capture.grab():
                    if 0 <= total - number - 1 <= MISSING_FRAMES and number >= 0:
                        return
                    raise ImageError(f"the film ends after {number + 1:,} frames, {total:,} were promised; cut or damaged")
                number += 1
            good, pixels = capture.retrieve()
            if not good:
                raise ImageError(f"frame {number:,} cannot be decoded")
            yield number, cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    finally:
        capture.release()


def _open(path: Path) -> cv2.VideoCapture:
    import cv2

    capture = cv2.VideoCapture(os.fspath(path), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise ImageError("cannot be opened: no film in a known format, or damaged")
    width, height = (int(capture.get(key)) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    if width * height > MAX_PIXELS:
        capture.release()
        raise ImageError(f"{width} x {height} pixels, more than the {MAX_PIXELS:,} allowed; shrink it first")
    return capture


def _frames(path: Path) -> int:
    """How many frames a film has: as its container says, else counted."""
    import cv2

    capture = _open(path)
    try:
        promised = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        if promised > 0:
            return promised
        count = 0
        while capture.grab():
            count += 1
    finally:
        capture.release()
    if not count:
        raise ImageError("no frame can be decoded")
    return count
