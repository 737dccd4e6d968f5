"""Videos: probabilities smoothed over time, scores of each video, predictions for every frame as a challenge wants them."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emotiw_keras.data.archive import printable
from emotiw_keras.data.faceset import FaceSet
from emotiw_keras.data.video_reading import every_picture
from emotiw_keras.data.videos import Table, VideoSet
from emotiw_keras.errors import DataError, ModelError, UsageError
from emotiw_keras.files import write_atomic

VIDEO_FIGURES = ("n", "n_found", "missing", "accuracy", "macro_f1", "abaw_score")
NOTHING = -1
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
            UsageError: the window is below 1.

        Example:
            >>> smoothed = answers.smoothed(3)  # doctest: +SKIP
        """
        if window < 1:
            raise UsageError(f"smooth = {window}: expected a number of frames, at least 1")
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


def answer_every_picture(faces: VideoSet, indices: np.ndarray, split: str | None, ask: Ask) -> FrameAnswers:
    """Ask for the probabilities of every picture of some videos, also of those without a label.

    Args:
        faces: the set.
        indices: int, some of its frames: their videos are asked for,
        split: and those of this split of the source, even if none of their frames has a label; None where it has no splits.
        ask: called with a set and int (n,), rows in it; returns float32 (n, classes).
    """
    named = [number for number, name in enumerate(faces.table.split) if split is not None and split in (name, "all")]
    videos = np.union1d(np.unique(faces.video[indices]), np.array(named, np.int64))
    whole = every_picture(faces, videos, os.cpu_count() or 1)
    rows = np.flatnonzero(whole.readable)
    return FrameAnswers(whole.table, videos, whole.video[rows], whole.frame[rows], ask(whole, rows))


def per_video(faces: VideoSet, indices: np.ndarray, probabilities: np.ndarray) -> dict[str, dict[str, Any]]:
    """Scores of each video: a class that it lacks counts as 0 in its macro-F1.

    Args:
        faces: the set.
        indices: int (n,), the frames that were asked for.
        probabilities: float32 (n, classes); NaN where a frame could not be read.

    Returns:
        Video -> `VIDEO_FIGURES`: frames asked for, frames scored, labelled frames without a picture, and the figures.
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


def per_video_csv(figures: dict[str, dict[str, Any]]) -> str:
    """`per_video` as CSV, one line a video; a video of which no frame could be read has no figures."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["video", *VIDEO_FIGURES])
    for video, row in figures.items():
        writer.writerow([video, *(f"{row[key]:.6f}" if isinstance(row[key], float) else row[key] for key in VIDEO_FIGURES)])
    return text.getvalue()


@dataclass(frozen=True)
class Challenge:
    """What was written: the files, frames in all, frames without a picture that took another's answer, videos without any."""

    paths: list[Path]
    frames: int
    filled: int
    empty: list[str]


def write_challenge(answers: FrameAnswers, labels: tuple[str, ...], folder: str | os.PathLike[str]) -> Challenge:
    """Write predictions as the annotations are: `FOLDER/<video>.txt`, a line of class names, then a number for each frame.

    Numbers are positions in the class names as the annotations write and order them. A frame without a picture, or with one
    that could not be read, takes the answer of the nearest earlier frame that has one, before the first such frame of the
    nearest later; a video without a single answer is written as -1 throughout.

    Args:
        answers: of every picture of the videos.
        labels: what the columns of the probabilities mean.
        folder: made if it is missing; other files in it stay.

    Raises:
        ModelError: the annotations do not know a class that the run answers with.
        OutputError: the folder cannot be written.
    """
    from emotiw_keras.labels import match_classes

    table = answers.table
    _, ids = match_classes(dict.fromkeys(table.classes, str(table.root)), labels)
    number_of = np.full(len(labels), NOTHING)
    for number, name in enumerate(table.classes):
        number_of[ids[name]] = number
    predicted = number_of[answers.probabilities.argmax(axis=1)]
    if (predicted == NOTHING).any():
        unknown = labels[int(answers.probabilities[np.argmax(predicted == NOTHING)].argmax())]
        raise ModelError(f"the run answers {unknown!r}, which the annotations do not know: {', '.join(table.classes)}")
    paths, frames, filled, empty = [], 0, 0, []
    for video in answers.videos:
        rows = slice(*np.searchsorted(answers.video, [video, video + 1]))
        length = len(table.labels[video])
        answered, numbers = predicted[rows], answers.frame[rows]
        if len(answered):
            row = answered[np.maximum(np.searchsorted(numbers, np.arange(1, length + 1), side="right") - 1, 0)]
        else:
            row = np.full(length, NOTHING)
            empty.append(table.names[video])
        path = Path(folder) / f"{table.names[video]}.txt"
        write_atomic(path, "\n".join([",".join(table.classes), *map(str, row.tolist())]) + "\n")
        paths.append(path)
        frames += length
        filled += length - len(answered) if len(answered) else 0
    return Challenge(paths, frames, filled, empty)
