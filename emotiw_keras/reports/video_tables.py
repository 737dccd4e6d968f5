"""What is written of videos: a table of their scores, and predictions for every frame as a challenge wants them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emotiw_keras.errors import ModelError
from emotiw_keras.evaluation.video_scores import VIDEO_FIGURES, FrameAnswers
from emotiw_keras.files import local_path, write_atomic
from emotiw_keras.text import csv_text

NOTHING = -1


def per_video_csv(figures: dict[str, dict[str, Any]]) -> str:
    """`per_video` as CSV, one line per video; a video without a readable frame has no figures."""
    rows = [
        [video, *(f"{row[key]:.6f}" if isinstance(row[key], float) else row[key] for key in VIDEO_FIGURES)]
        for video, row in figures.items()
    ]
    return csv_text([["video", *VIDEO_FIGURES], *rows])


@dataclass(frozen=True)
class Challenge:
    """What was written: the files, frames in all, frames without an image that took another's answer, videos without any."""

    paths: list[Path]
    frames: int
    filled: int
    empty: list[str]


def write_challenge(answers: FrameAnswers, labels: tuple[str, ...], folder: str | os.PathLike[str]) -> Challenge:
    """Write predictions as the annotations are: `FOLDER/<video>.txt`, a line of class names, then a number for each frame.

    Numbers are positions in the class names as the annotations write and order them. A frame without an image, or with one
    that could not be read, takes the answer of the nearest earlier frame that has one, before the first such frame of the
    nearest later; a video without a single answer is written as -1 throughout.

    Args:
        answers: of every image of the videos.
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
    place, paths, frames, filled, empty = local_path(folder), [], 0, 0, []
    for video in answers.videos:
        rows = slice(*np.searchsorted(answers.video, [video, video + 1]))
        length = len(table.labels[video])
        answered, numbers = predicted[rows], answers.frame[rows]
        if len(answered):
            row = answered[np.maximum(np.searchsorted(numbers, np.arange(1, length + 1), side="right") - 1, 0)]
        else:
            row = np.full(length, NOTHING)
            empty.append(table.names[video])
        path = place / f"{table.names[video]}.txt"
        write_atomic(path, "\n".join([",".join(table.classes), *map(str, row.tolist())]) + "\n")
        paths.append(path)
        frames += length
        filled += length - len(answered) if len(answered) else 0
    return Challenge(paths, frames, filled, empty)
