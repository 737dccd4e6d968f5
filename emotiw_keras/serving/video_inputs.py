"""Videos: video files, numbered images and cameras, one frame in memory at a time."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from emotiw_keras.data.images import ImageError
from emotiw_keras.data.interlaced import UnreadableVideo
from emotiw_keras.data.video_files import FASTEST, SLOWEST, USUAL_RATE, VideoReader, quiet_opencv
from emotiw_keras.serving.input_images import InputImage, Video

if TYPE_CHECKING:
    import cv2

_NUMBERED = re.compile(r"%(0\d+)?d")
_CAMERA = re.compile(r"camera:(\d{1,3})")
Read = Callable[[str, str], InputImage | Video]
"""A file's path, and its relative name -> what it holds."""


def looks_like_video(start: bytes) -> bool:
    """Whether a file's first 16 bytes are those of MP4 or MOV, AVI, or Matroska and WebM."""
    return start[4:8] == b"ftyp" or (start[:4] == b"RIFF" and start[8:12] == b"AVI ") or start[:4] == b"\x1a\x45\xdf\xa3"


def is_sequence(name: str) -> bool:
    """Whether a name is a pattern for numbered images, with one `%d` or `%05d` in its last part."""
    return len(_NUMBERED.findall(os.path.basename(name))) == 1


def is_camera(name: str) -> bool:
    """Whether a name is `camera:0`, `camera:1` and so on."""
    return _CAMERA.fullmatch(name) is not None


def open_video(path: str, name: str) -> Video | InputImage:
    """Open a video file; its frames come upright. One that cannot be opened is an image with `error` set."""
    from emotiw_keras.serving.decoders import current

    apart = current()
    return opened(path, name) if apart is None else apart.video(path, name)


def opened(path: str, name: str) -> Video | InputImage:
    """The same, decoded in this process."""
    try:
        video = VideoReader(path)
    except ImageError as error:
        return InputImage(path, None, str(error), name=name)
    return Video(path, name, video.rate, _video_frames(video, path, name))


def _video_frames(video: VideoReader, path: str, name: str) -> Iterator[InputImage]:
    with video:
        while video.grab():
            seconds = round(video.seconds, 6)
            try:
                yield InputImage(path, video.frame(), frame=video.number, name=name, seconds=seconds)
            except UnreadableVideo as error:
                yield InputImage(path, None, str(error), name=name)
                return
            except ImageError as error:
                yield InputImage(path, None, str(error), frame=video.number, name=name, seconds=seconds)
        lost = video.lost()
    if lost is not None:
        yield InputImage(path, None, lost, frame=video.number + 1 or None, name=name)


def numbered_files(pattern: str) -> list[tuple[int, str]]:
    """Numbers and names of the files in a folder that a pattern with `%d` or `%05d` means, by number.

    Raises:
        OSError: the folder cannot be read.
    """
    folder, last = os.path.split(pattern)
    found = _NUMBERED.search(last)
    assert found is not None, pattern
    digits = int(found[1]) if found[1] else 1
    wanted = re.compile(re.escape(last[: found.start()]) + rf"(\d{{{digits},}})" + re.escape(last[found.end() :]))
    return sorted((int(match[1]), name) for name in os.listdir(folder or ".") if (match := wanted.fullmatch(name)))


def open_sequence(pattern: str, read: Read) -> Video | InputImage:
    """Open images numbered by `%d` or `%05d`, in the order of their numbers; gaps are allowed. `read` reads one of them."""
    folder, last = os.path.split(pattern)
    try:
        numbered = numbered_files(pattern)
    except OSError as error:
        return InputImage(pattern, None, f"cannot read {folder}: {error.strerror or error}")
    if not numbered:
        return InputImage(pattern, None, "no file matches this pattern")
    return Video(pattern, last, USUAL_RATE, _sequence_frames(pattern, folder, numbered, read), stills=True)


def _sequence_frames(pattern: str, folder: str, numbered: list[tuple[int, str]], read: Read) -> Iterator[InputImage]:
    for place, (number, name) in enumerate(numbered):
        image, seconds = read(os.path.join(folder, name), name), round(place / USUAL_RATE, 6)
        if isinstance(image, Video):
            yield InputImage(pattern, None, f"{name} is a video, not an image", frame=number, name=name, seconds=seconds)
        else:
            yield InputImage(pattern, image.pixels, image.error, frame=number, name=name, seconds=seconds)


def open_camera(name: str) -> Video | InputImage:
    """Open `camera:0`; its frames come until the user stops it."""
    import cv2

    quiet_opencv()
    number = int(name.partition(":")[2])
    capture = cv2.VideoCapture(number)
    if not capture.isOpened():
        return InputImage(name, None, f"no camera {number} can be opened")
    rate = capture.get(cv2.CAP_PROP_FPS)
    rate = rate if SLOWEST <= rate <= FASTEST else USUAL_RATE
    return Video(name, f"camera_{number}.mp4", rate, _camera_frames(capture, name), live=True)


def _camera_frames(capture: cv2.VideoCapture, name: str) -> Iterator[InputImage]:
    import cv2

    count, start = 0, 0.0
    try:
        while True:
            good, pixels = capture.read()
            now = time.monotonic()
            start = start if count else now
            if not good:
                yield InputImage(name, None, "the camera sends no more frames", frame=count)
                return
            seconds = round(now - start, 6)
            yield InputImage(name, cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), frame=count, seconds=seconds)
            count += 1
    finally:
        capture.release()
