"""Videos as sources of images: what a video is called, the one door to FFmpeg, and some of a video's frames, evenly spread.

FFmpeg is given bytes, never a name: a name may be no UTF-8, or begin like a protocol (`12:30.mp4`), and a playlist that calls
itself a video may name other files and addresses, of which it gets none.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np

from emotiw_keras.data.image_bounds import MAX_PIXELS
from emotiw_keras.data.images import ImageError
from emotiw_keras.data.interlaced import Deinterlaced, Source, equal, says_interlaced
from emotiw_keras.data.mp4_boxes import WithoutCover, video_track
from emotiw_keras.data.stated_sizes import counts_frames, ends_in_zeros, missing_bytes
from emotiw_keras.text import number_of

VIDEO_SUFFIXES = frozenset(".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .wmv .flv .3gp .ogv .ts .mts .m2ts".split())

# Where a video does not say how many frames a second it has, or says nonsense.
USUAL_RATE = 25.0
SLOWEST, FASTEST = 0.01, 1000.0
# A video whose last frame lies this much before its stated end has lost its tail; container and codec disagree by less.
MISSING_SECONDS = 0.25
MISSING_FRAMES = 2
# Or has fewer frames than it counts by this share of them: a short one, or one of many frames a second.
MISSING_SHARE = 0.25
# Frames in a row that cannot be decoded, behind which nothing more is looked for.
LONGEST_GAP = 250
# Pixels that are wider or higher than this, in their other side, are nonsense.
LONGEST_PIXEL = 8.0

_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
_LOG_LEVEL = "OPENCV_FFMPEG_LOGLEVEL"
_opening = threading.Lock()


def is_video(name: str) -> bool:
    """Whether a file's name says that it is a video."""
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def quiet_opencv() -> None:
    """Keep what FFmpeg and OpenCV mutter off the terminal."""
    import cv2

    os.environ.setdefault(_LOG_LEVEL, "-8")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


@contextlib.contextmanager
def _nothing_else_opened() -> Iterator[None]:
    """While a video is opened, FFmpeg may open nothing besides; it takes this from the environment alone."""
    with _opening:
        given = os.environ.get(_OPTIONS)
        os.environ[_OPTIONS] = "|".join(filter(None, [given, "protocol_whitelist;none"]))
        try:
            yield
        finally:
            if given is None:
                del os.environ[_OPTIONS]
            else:
                os.environ[_OPTIONS] = given


class VideoReader:
    """A video that is read frame by frame; close it, or use it in a `with` block.

    Args:
        source: its path, or its bytes.
        ask: find out whether frames that are equal to the bit are interlaced ones, which OpenCV does not say.

    Attributes:
        rate: frames a second, on average.
        promised: frames that its container promises, by length and rate where it does not count them; 0 where it says nothing.
        counted: whether it counts them. Otherwise sound or text that goes on longer counts as frames.
        number: of the frame that `grab` went to, from 0; -1 before the first. Frames that cannot be decoded count.
        gaps: how many of those were before it.
        seconds: when that frame is shown, from the video's time stamps, or by its number where it has none or nonsense.

    Raises:
        ImageError: it cannot be opened, or its frames are too large.
    """

    def __init__(self, source: Source, ask: bool = True) -> None:
        import cv2

        quiet_opencv()
        try:
            file = io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")  # noqa: SIM115 - see close
        except OSError as error:
            raise ImageError(f"cannot read: {error.strerror or error}") from error
        self._source = source
        self._ask = ask
        self._before: np.ndarray | None = None
        self._deinterlaced: Deinterlaced | None = None
        self._track = video_track(file)
        says_longer = "before its file says that it does" if missing_bytes(file) else ""
        self._missing = "behind which its file holds zeros" if ends_in_zeros(file) else says_longer
        counted = self._track.frames > 0 if self._track is not None else counts_frames(file)
        self._file = WithoutCover(file)
        with _nothing_else_opened():
            # The stubs want a class of theirs; any buffered file will do.
            self._capture = cv2.VideoCapture(self._file, cv2.CAP_FFMPEG, [])  # type: ignore[call-overload]
        if not self._capture.isOpened():
            self.close()
            raise ImageError("cannot open: no video in a known format, or damaged")
        keys = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_SAR_NUM, cv2.CAP_PROP_SAR_DEN)
        width, height, across, down = (self._capture.get(key) for key in keys)
        self._wide = self._tall = 1.0
        turned = self._capture.get(cv2.CAP_PROP_ORIENTATION_META) % 180 == 90
        # In the stored frames up and down change places, before they are turned.
        self._mirrored = None if self._track is None or not self._track.mirrored else int(turned)
        if across > 0 and down > 0 and 1 / LONGEST_PIXEL <= across / down <= LONGEST_PIXEL:
            aspect = down / across if turned else across / down
            self._wide, self._tall = max(1.0, aspect), max(1.0, 1 / aspect)
        width, height = round(width * self._wide), round(height * self._tall)
        if width * height > MAX_PIXELS:
            self.close()
            raise ImageError(f"{width} x {height} pixels, more than the {MAX_PIXELS:,} allowed; shrink it first")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if SLOWEST <= rate <= FASTEST else USUAL_RATE
        self._clock = not 0 < rate < SLOWEST
        promised = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.promised = int(promised) if math.isfinite(promised) and promised > 0 else 0
        self.counted = counted and self.promised > 0
        self.number = -1
        self.gaps = 0
        self.seconds = 0.0

    @property
    def trimmed(self) -> bool:
        """Whether an edit list plays fewer frames than the container holds."""
        return self._track is not None and self._track.trimmed

    def grab(self) -> bool:
        """Go to the next frame that can be decoded; False where there is none."""
        import cv2

        # A frame that cannot be decoded looks like the end; those behind it may be whole.
        gap = 0
        while not self._capture.grab():
            gap += 1
            if gap > min(LONGEST_GAP, self.promised - self.number - 1):
                return False
        self.number += gap + 1
        self.gaps += gap
        seconds = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if not self._clock or (self.number and seconds == 0):
            seconds = self.number / self.rate
        if math.isfinite(seconds):
            self.seconds = seconds
        return True

    def frame(self) -> np.ndarray:
        """The frame that `grab` went to, upright and with square pixels: uint8 (height, width, 3) RGB.

        Raises:
            ImageError: it cannot be decoded.
            UnreadableVideo: it is interlaced, and nothing here can show it.
        """
        import cv2

        rgb = self._retrieved() if self._deinterlaced is None else self._deinterlaced.frame(self.number)
        if self._mirrored is not None:
            rgb = cv2.flip(rgb, self._mirrored)
        if self._wide == self._tall:
            return rgb
        return cv2.resize(rgb, None, fx=self._wide, fy=self._tall, interpolation=cv2.INTER_LINEAR)

    def _retrieved(self) -> np.ndarray:
        import cv2

        good, pixels = self._capture.retrieve()
        if not good:
            raise ImageError(f"frame {self.number:,} cannot be decoded")
        if self._ask:
            self._look(pixels)
            if self._deinterlaced is not None:
                return self._deinterlaced.frame(self.number)
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)

    def _look(self, pixels: np.ndarray) -> None:
        """Take another reader where two frames are equal to the bit, or the first two are, because they are interlaced."""
        if self._before is None:
            suspect, frames = _starts_alike(self._source), 2
        else:
            suspect, frames = equal(self._before, pixels), self.number + 1
        self._before = pixels
        if suspect:
            self._ask, self._before = False, None
            if says_interlaced(self._source, frames):
                self._deinterlaced = Deinterlaced(self._source)

    def lost(self) -> str | None:
        """After the last frame: what the container promised and was not there, in words; None if all was."""
        count = self.number + 1 - self.gaps
        if not count:
            return "no frame can be decoded"
        if not self.counted:
            if self._missing:
                return f"ends after {number_of(count, 'frames')}, {self._missing}; the video is cut or damaged"
            least = f"at least {number_of(self.gaps, 'frames')} cannot be decoded"  # its file says no number of frames
            return f"{least}; the video is damaged" if self.gaps else None
        end = self._track.played if self._track is not None and self.trimmed else self.promised / self.rate
        behind = end - self.seconds - 1 / self.rate
        short = behind > MISSING_SECONDS
        if self.trimmed:
            return f"ends {end - self.seconds:.2f} s before its end; the video is cut or damaged" if short else None
        missing = self.promised - count
        # Films whose rate varies count frames that only last longer; they reach their end.
        few = missing > MISSING_SHARE * self.promised and behind > MISSING_FRAMES / self.rate
        if missing > MISSING_FRAMES and (short or few):
            return f"ends after {number_of(count, 'frames')}, {self.promised:,} were promised; the video is cut or damaged"
        exact = self._track is not None and self._track.frames == self.promised > 0
        if self.gaps or (exact and missing > 0):
            missing = missing if exact else self.gaps
            return f"{missing:,} of {number_of(self.promised, 'frames')} cannot be decoded; the video is damaged"
        return None

    def close(self) -> None:
        """Close the video."""
        if hasattr(self, "_capture"):
            self._capture.release()
        if self._deinterlaced is not None:
            self._deinterlaced.close()
        self._file.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _starts_alike(source: Source) -> bool:
    """Whether the first two frames are equal to the bit."""
    with VideoReader(source, ask=False) as video:
        try:
            pair = [video.frame() for _ in range(2) if video.grab()]
        except ImageError:
            return False
    return len(pair) == 2 and equal(*pair)


def sample_frames(source: Path | bytes, count: int) -> Iterator[tuple[int, np.ndarray]]:
    """The frames in the middle of `count` equal parts of a video, one in memory at a time; all of them if it has no more.

    Args:
        source: the video's path, or its bytes.
        count: frames, at least 1.

    Yields:
        (frame number from 0, uint8 (height, width, 3) RGB).

    Raises:
        ImageError: it cannot be opened, holds no frame or too large ones, or ends before the frames it promises; at the end,
            that frames between could not be decoded.
    """
    total = _frames(source)
    wanted = [int((i + 0.5) * total / count) for i in range(count)] if total > count else list(range(total))
    with VideoReader(source) as video:
        for place in wanted:
            if video.number >= place:
                continue  # was lost, and the one behind it has been given
            if not _go_to(video, place):
                if total - video.number - 1 > MISSING_FRAMES or video.number < 0:
                    raise ImageError(
                        f"the video ends after {number_of(video.number + 1, 'frames')}, {total:,} were promised; cut or damaged"
                    )
                break
            yield video.number, video.frame()
        if video.gaps:
            raise ImageError(f"{video.gaps:,} of {video.number + 1:,} frames cannot be decoded; the video is damaged")


def _go_to(video: VideoReader, place: int) -> bool:
    while video.number < place:
        if not video.grab():
            return False
    return True


def _frames(source: Path | bytes) -> int:
    """How many frames of a video are played: as its container counts them, else counted here, as where it is trimmed."""
    with VideoReader(source) as video:
        if video.counted and not video.trimmed:
            return video.promised
        while video.grab():
            pass
        if (lost := video.lost()) is not None:
            raise ImageError(lost)
        return video.number + 1
