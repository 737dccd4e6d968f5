"""Interlaced films, whose lines were taken in two turns: OpenCV from 4.13 on cannot show them, PyAV (an extra) can.

OpenCV then gives the frame before, or memory that nothing was written to, and tells it in its log alone.
"""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import numpy as np

from emotiw_keras.data.images import ImageError
from emotiw_keras.own_process import python

_SPEAKING = """
import sys
from emotiw_keras.data.video_files import VideoReader

with VideoReader(sys.argv[1] or sys.stdin.buffer.read(), ask=False) as video:
    for _ in range(int(sys.argv[2])):
        if not video.grab():
            break
        video.frame()
"""
Source = str | os.PathLike[str] | bytes


class UnreadableVideo(ImageError):
    """A video of which no frame can be had."""


def equal(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two frames are equal to the bit; quick where they are not."""
    few = (slice(None, None, 16),) * 2
    return first.shape == second.shape and np.array_equal(first[few], second[few]) and np.array_equal(first, second)


def says_interlaced(source: Source, frames: int) -> bool:
    """Whether OpenCV's FFmpeg, asked to speak in a process of its own, says so of one of the first frames."""
    given = source if isinstance(source, bytes) else b""
    name = "" if isinstance(source, bytes) else os.fspath(source)
    command, environment = python(_SPEAKING, name, str(frames))
    environment["OPENCV_FFMPEG_LOGLEVEL"] = "16"
    told = subprocess.run(command, input=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
    return b"interlaced to progressive" in told.stdout


class Deinterlaced:
    """The frames of an interlaced film, each with all its lines of one time, by FFmpeg's `bwdif`; close it.

    Args:
        source: its path, or its bytes.

    Raises:
        UnreadableVideo: PyAV is not installed, or cannot open it.
    """

    def __init__(self, source: Source) -> None:
        try:
            import av
        except ImportError as error:
            import cv2

            raise UnreadableVideo(
                f"its frames are interlaced, which OpenCV {cv2.__version__} cannot show; pip install "
                "'emotiw-keras[interlaced]', or make them progressive, as `ffmpeg -i FILM -vf bwdif new.mp4` does"
            ) from error
        self._file = io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")  # noqa: SIM115 - see close
        self._errors = av.error.FFmpegError
        try:
            # It is given bytes and may open nothing besides, as OpenCV may not.
            self._container: Any = av.open(self._file, options={"protocol_whitelist": "none"})
            self._frames = self._deinterlaced(av)
        except self._errors as error:
            self._file.close()
            raise UnreadableVideo(f"interlaced, and PyAV cannot open it: {error}") from error
        self._number = -1

    def _deinterlaced(self, av: Any) -> Iterator[Any]:
        stream = self._container.streams.best("video")
        graph = av.filter.Graph()
        graph.link_nodes(
            graph.add_buffer(template=stream), graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")
        ).configure()

        def frames() -> Iterator[Any]:
            for frame in (*self._container.decode(stream), None):
                graph.push(frame)
                while True:
                    try:
                        yield graph.pull()
                    except (av.error.BlockingIOError, av.error.EOFError):
                        break

        return frames()

    def frame(self, number: int) -> np.ndarray:
        """A frame that is not before the last one that was asked for: uint8 (height, width, 3) RGB.

        Raises:
            ImageError: it cannot be decoded.
        """
        try:
            for found in self._frames:
                self._number += 1
                if self._number >= number:
                    return np.rot90(found.to_ndarray(format="rgb24"), found.rotation // 90)
        except self._errors as error:
            raise ImageError(f"frame {number:,} cannot be decoded: {error}") from error
        raise ImageError(f"frame {number:,} cannot be decoded")

    def close(self) -> None:
        """Close the film."""
        self._container.close()
        self._file.close()
