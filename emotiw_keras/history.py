"""The history of a run, history.csv: what each epoch of each stage measured."""

from __future__ import annotations

import csv
import io
import math
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from emotiw_keras.errors import DataError
from emotiw_keras.files import read_regular

COLUMNS = ("stage", "epoch", "learning_rate", "loss", "accuracy", "val_loss", "val_accuracy")
LARGEST = 64 << 20
"""Bytes: half a million epochs."""


@dataclass(frozen=True)
class Epoch:
    """One line of history.csv; a figure that was not measured is NaN."""

    stage: str
    learning_rate: float
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float


def _number(row: dict[str, str], column: str, line: int, path: Path) -> float:
    text = (row[column] or "").strip()
    try:
        return float(text) if text else math.nan
    except ValueError:
        raise DataError(f"{path} line {line}: {column} is {text!r}; expected a number") from None


def read_history(path: str | os.PathLike[str]) -> list[Epoch]:
    """The epochs of a history.csv, in file order.

    Raises:
        DataError: the file is missing, lacks columns, holds no epoch, or a figure is not a number.
    """
    path = Path(path)
    try:
        return parse_history(read_regular(path, LARGEST), path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def parse_history(content: bytes, path: Path) -> list[Epoch]:
    """The same of a file's bytes; `path` is for messages."""
    try:
        reader = csv.DictReader(io.StringIO(content.decode("utf-8"), newline=""))
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise DataError(f"{path} lacks the columns {', '.join(missing)}; expected {', '.join(COLUMNS)}")
        epochs = [
            Epoch(row["stage"] or "", *(_number(row, column, reader.line_num, path) for column in COLUMNS[2:]))
            for row in reader
        ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if not epochs:
        raise DataError(f"{path} holds no epoch yet; learning curves need at least one")
    return epochs


def steps(rates: list[float]) -> list[tuple[int, float]]:
    """The drops of a learning rate that stand alone; a rate that glides down epoch by epoch has none.

    Returns:
        (epochs before the drop, the rate after it) for each.

    Example:
        >>> steps([0.01, 0.01, 0.001, 0.001]), steps([0.01, 0.008, 0.005, 0.001])
        ([(2, 0.001)], [])
    """
    down = [False, *(after < before for before, after in pairwise(rates)), False]
    return [(i, rates[i]) for i in range(1, len(rates)) if down[i] and not down[i - 1] and not down[i + 1]]
