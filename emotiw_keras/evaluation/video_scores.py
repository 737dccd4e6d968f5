"""Videos: probabilities of every frame, smoothed over time, and scores of each video."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from emotiw_keras.arguments import whole_number
from emotiw_keras.data.annotated_videos import Table, VideoSet
from emotiw_keras.data.archive import printable
from emotiw_keras.data.faceset import FaceSet
from emotiw_keras.data.video_reading import every_image
from emotiw_keras.errors import DataError

VIDEO_FIGURES = ("n", "n_found", "missing", "accuracy", "macro_f1", "abaw_score")
Ask = Callable[[FaceSet, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class FrameAnswers:
    """Probabilities of frames, sorted by video and frame number.

    Attributes:
        table: the videos.
        videos: int (videos,), positions in `table` of those that were asked for, sorted.
        video: int32 (frames,), position in `table`.
        frame: int32 (frames,), frame number, the first of a video is 1.
        probabilities: float32 (frames, classes), rows summing to 1.
    """

    table: Table
    videos: np.ndarray
    video: np.ndarray
    frame: np.ndarray
    probabilities: np.ndarray

    def smoothed(self, window: int) -> FrameAnswers:
        """The mean over `window` consecutive frame numbers around each frame, within its video.

        Frame n takes the frames n - (window - 1) // 2 to n + window // 2. A number without an answer counts for nothing: a gap
        makes the mean one of fewer frames, never one of frames further away.

        Raises:
            UsageError: the window is no whole number above 0.

        Example:
            >>> smoothed = answers.smoothed(3)  # doctest: +SKIP
        """
        window = whole_number("smooth", window, 1)
        result = np.empty_like(self.probabilities)
        for video in self.videos:
            rows = slice(*np.searchsorted(self.video, [video, video + 1]))
            numbers = self.frame[rows]
            sums = np.zeros((len(numbers) + 1, self.probabilities.shape[1]))
            np.cumsum(self.probabilities[rows], axis=0, dtype=np.float64, out=sums[1:])
            start = np.searchsorted(numbers, numbers - (window - 1) // 2, side="left")
            end = np.searchsorted(numbers, numbers + window // 2, side="right")
            mean = (sums[end] - sums[start]) / (end - start)[:, None]
            result[rows] = np.clip(mean, 0, 1)  # differences of sums may miss 0 by a last bit
        return FrameAnswers(self.table, self.videos, self.video, self.frame, result)

    def of(self, video: np.ndarray, frame: np.ndarray) -> np.ndarray:
        """The probabilities of single frames, float32 (frames, classes); DataError if one of them has no answer."""
        keys = self.video.astype(np.int64) << 32 | self.frame
        wanted = video.astype(np.int64) << 32 | frame
        place = np.searchsorted(keys, wanted)
        if not np.array_equal(keys[np.minimum(place, len(keys) - 1)], wanted):
            raise DataError("a frame that could be read a moment ago cannot be read now; does something change the files?")
        return self.probabilities[place]


def answer_every_image(faces: VideoSet, indices: np.ndarray, split: str | None, ask: Ask) -> FrameAnswers:
    """Compute the probabilities of every image of some videos, with or without a label.

    Args:
        faces: the set.
        indices: int, some of its frames: their videos are asked for,
        split: and those of this split of the source, even if none of their frames has a label; None where it has no splits.
        ask: called with a set and int (n,), rows in it; returns float32 (n, classes).
    """
    named = [number for number, name in enumerate(faces.table.split) if split is not None and split in (name, "all")]
    videos = np.union1d(np.unique(faces.video[indices]), np.array(named, np.int64))
    whole = every_image(faces, videos, os.cpu_count() or 1)
    rows = np.flatnonzero(whole.readable)
    return FrameAnswers(whole.table, videos, whole.video[rows], whole.frame[rows], ask(whole, rows))


def per_video(faces: VideoSet, indices: np.ndarray, probabilities: np.ndarray) -> dict[str, dict[str, Any]]:
    """Scores of each video: a class that it lacks counts as 0 in its macro-F1.

    Args:
        faces: the set.
        indices: int (n,), the frames that were asked for.
        probabilities: float32 (n, classes); NaN where a frame could not be read.

    Returns:
        Video -> `VIDEO_FIGURES`: frames asked for, frames scored, labelled frames without an image, and the figures.
    """
    classes = len(faces.labels)
    truth, video = faces.label[indices].astype(np.int64), faces.video[indices]
    found = ~np.isnan(probabilities).any(axis=1)
    predicted = np.where(found[:, None], probabilities, 0.0).argmax(axis=1)
    count = len(faces.table.names)
    pair = (video[found].astype(np.int64) * classes + truth[found]) * classes + predicted[found]
    confusion = np.bincount(pair, minlength=count * classes * classes).reshape(count, classes, classes)
    asked = np.bincount(video, minlength=count)
    result = {}
    for number in np.flatnonzero(asked):
        matrix = confusion[number]
        scored = int(matrix.sum())
        right, of_both = np.diag(matrix), matrix.sum(axis=0) + matrix.sum(axis=1)
        f1 = np.divide(2 * right, of_both, out=np.zeros(classes), where=of_both > 0)
        accuracy = float(right.sum() / scored) if scored else None
        macro_f1 = float(f1.mean()) if scored else None
        result[printable(faces.table.names[number])] = {
            "n": int(asked[number]),
            "n_found": scored,
            "missing": len(faces.table.labelled(int(number))[1]),
            "accuracy": accuracy,
            "macro_f1": macro_f1,
            "abaw_score": None if accuracy is None or macro_f1 is None else 0.67 * macro_f1 + 0.33 * accuracy,
        }
    return result
