"""Trees that look like Aff-Wild2's expression set, of faces that the package draws: for tests, and to measure on.

A video is one drawn person; its frames show few images again and again (hard links, so a tree of 200,000 frames takes seconds
and little disk). Labels come in stretches, neutral most often; stretches carry no label; frames have no image; two persons of
one recording are named `_left` and `_right`.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from emotiw_keras.data.face_drawing import Person, draw_face
from emotiw_keras.data.layouts.affwild2 import FACES
from emotiw_keras.data.layouts.drawn import DIFFICULTIES, LABELS
from emotiw_keras.errors import DataError, UsageError
from emotiw_keras.files import local_path, write_atomic, writing

NAMES = ("Neutral", "Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise", "Other")
# What each class shows; "Other" is no expression of the seven, here a neutral face.
_SHOWN = ("neutral", "angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
# Neutral and happy faces fill most of the real videos.
_SHARES = (10, 2, 1, 1, 6, 3, 2, 3)


@dataclass(frozen=True)
class Tree:
    """What was written.

    Attributes:
        videos: number of videos.
        frames: rows of all annotations.
        unlabelled: rows of -1.
        missing: labelled rows without an image.
    """

    videos: int
    frames: int
    unlabelled: int
    missing: int


def write_affwild2(
    folder: str | os.PathLike[str],
    *,
    videos: int = 8,
    frames: int = 400,
    classes: int = 7,
    size: int = 48,
    unlabelled: float = 0.05,
    missing: float = 0.03,
    validation: float = 0.25,
    training_folder: str = "Training_Set",
    seed: int = 0,
) -> Tree:
    """Write a tree: `annotations/EXPR_Set/...` and `cropped_aligned/<video>/00001.jpg`; the same arguments, the same bytes.

    Args:
        folder: made if it is missing; it must not hold a tree already.
        videos: their number.
        frames: of all videos together; single ones differ by up to a third.
        classes: 7 (2020, 2021) or 8 (with Other).
        size: height and width of the images in pixels.
        unlabelled: share of the rows that are -1.
        missing: share of the frames that have no image.
        validation: share of the videos in Validation_Set; the rest is for training.
        training_folder: "Training_Set", or "Train_Set" as in the first release.
        seed: of everything.

    Raises:
        UsageError: an argument out of range.
        DataError: the folder holds a tree already.
        OutputError: it cannot be written.

    Example:
        >>> write_affwild2("affwild2", videos=4, frames=200)  # doctest: +SKIP
        Tree(videos=4, frames=200, unlabelled=11, missing=6)
    """
    if classes not in (7, 8) or videos < 1 or frames < 20 * videos:
        told = f"videos = {videos}, frames = {frames}, classes = {classes}"
        raise UsageError(f"{told}: expected 7 or 8 classes, a video, and 20 frames for each")
    root = local_path(folder)
    if (root / FACES).exists():
        raise DataError(f"{root} holds a folder {FACES} already; give another folder")
    lengths = _lengths(videos, frames, np.random.default_rng((seed, 0)))
    counts = np.zeros(2, np.int64)
    for number, length in enumerate(lengths):
        generator = np.random.default_rng((seed, 1, number))
        labels = _stretches(length, classes, unlabelled, generator)
        there = generator.random(length) >= missing
        there[generator.integers(length)] = True
        # the second and third of every eight are two persons of one recording
        side = {1: "_left", 2: "_right"}.get(number % 8, "")
        name = f"video{number - (side == '_right'):03d}{side}"
        of_training = number < round(videos * (1 - validation))
        split = training_folder if of_training else "Validation_Set"
        text = "\n".join([",".join(NAMES[:classes]), *map(str, labels.tolist())]) + "\n"
        write_atomic(root / "annotations" / "EXPR_Set" / split / f"{name}.txt", text)
        with writing(root):
            _write_images(root / FACES / name, labels, there, size, generator)
        counts += (labels < 0).sum(), ((labels >= 0) & ~there).sum()
    return Tree(videos, frames, int(counts[0]), int(counts[1]))


def _lengths(videos: int, frames: int, generator: np.random.Generator) -> list[int]:
    weights = generator.uniform(1.0, 1.5, videos)
    ends = np.round(np.cumsum(weights) / weights.sum() * frames).astype(int)
    return np.diff(ends, prepend=0).tolist()


def _stretches(length: int, classes: int, unlabelled: float, generator: np.random.Generator) -> np.ndarray:
    """Labels of one video: int (length,), one class for some frames, then another."""
    shares = np.array(_SHARES[:classes], float)
    labels = np.empty(length, np.int64)
    start = 0
    while start < length:
        end = start + int(generator.integers(5, max(6, length // 12)))
        labels[start:end] = -1 if generator.random() < unlabelled else generator.choice(classes, p=shares / shares.sum())
        start = end
    return labels


def _write_images(folder: Path, labels: np.ndarray, there: np.ndarray, size: int, generator: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    who = Person.draw(generator, DIFFICULTIES["easy"])
    content = {}
    for label in LABELS:
        face = draw_face(who, label, size, generator, DIFFICULTIES["easy"])
        done, content[label] = cv2.imencode(".jpg", np.repeat(face[..., None], 3, axis=2))
        if not done:
            raise DataError(f"{folder}: OpenCV could not encode a face as JPEG")
    first: dict[str, str] = {}
    for i in np.flatnonzero(there).tolist():
        path = f"{folder}/{i + 1:05d}.jpg"
        shown = _SHOWN[labels[i]] if labels[i] >= 0 else "neutral"
        if shown in first:
            shutil.copyfile(first[shown], path)
        else:
            first[shown] = path
            Path(path).write_bytes(content[shown].tobytes())
