"""What a classifier that was fitted on the validation images too said of images that it had not seen: the folds of its
cross-validation, kept in the run folder. With no images left that trained nothing, its calibration is judged by these."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emotiw_keras.errors import RunError
from emotiw_keras.files import write_atomic
from emotiw_keras.runs import OUT_OF_FOLD_FILE, Run
from emotiw_keras.text import csv_text

TRUTH = "truth"
FOLDS = "cross-validation"
"""What such images are called in place of a split."""


def write_out_of_fold(folder: Path, labels: Sequence[str], truth: np.ndarray, probabilities: np.ndarray) -> None:
    """Write a row for each image: its class, and the probability of each class.

    Args:
        folder: of the run.
        labels: the class names.
        truth: int (n,), the class of each image.
        probabilities: float (n, classes), by a classifier that was fitted without the image and its group.
    """
    rows = ([labels[label], *(f"{share:.7g}" for share in row)] for label, row in zip(truth, probabilities, strict=True))
    write_atomic(folder / OUT_OF_FOLD_FILE, csv_text([[TRUTH, *labels], *rows]))


def read_out_of_fold(run: Run) -> tuple[np.ndarray, np.ndarray] | None:
    """The classes of the images, int (n,), and their probabilities, float64 (n, classes); None where the run keeps none.

    Raises:
        RunError: the file is damaged.
    """
    if OUT_OF_FOLD_FILE not in run.info.get("files", {}):
        return None
    place = {label: number for number, label in enumerate(run.labels)}
    try:
        head, *rows = csv.reader(io.StringIO(run.content(OUT_OF_FOLD_FILE).decode("utf-8"), newline=""), strict=True)
        truth = np.array([place[row[0]] for row in rows], np.int64)
        shares = np.array([[float(cell) for cell in row[1:]] for row in rows]).reshape(len(rows), len(place))
        total = shares.sum(axis=1)
        good = head == [TRUTH, *run.labels] and shares.min() >= 0 and np.abs(total - 1).max() < 1e-2
    except (ValueError, KeyError, IndexError, csv.Error) as error:
        raise RunError(f"{run.path} is damaged: {OUT_OF_FOLD_FILE} cannot be read ({error})") from error
    if not good:
        raise RunError(f"{run.path} is damaged: {OUT_OF_FOLD_FILE} holds no probabilities of the run's classes")
    return truth, shares / total[:, None]
