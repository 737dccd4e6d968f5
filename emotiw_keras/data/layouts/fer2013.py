"""`fer2013.csv` as Kaggle gave it out: `emotion,pixels,Usage`, one grey picture a row as numbers in text."""

from __future__ import annotations

import math
import mmap
from pathlib import Path

import numpy as np

from emotiw_keras.data.images import MIN_SIDE
from emotiw_keras.data.layouts.listing import SPLIT_NAMES, Listing
from emotiw_keras.data.layouts.tables import PIXEL_COLUMNS, columns_of, unknown_columns
from emotiw_keras.errors import DataError
from emotiw_keras.labels import NUMBER_CODES, canonical

_CODES = NUMBER_CODES["FER-2013"]
_USUAL = 48 * 48
_SPACE = ord(" ")
_ZERO = ord("0")


class FerPictures:
    """The pixel column of a mapped CSV; a picture is parsed when it is asked for."""

    def __init__(self, path: Path, text: mmap.mmap, cells: list[tuple[int, int]], rows: list[int]) -> None:
        self._path = path
        self._text = text
        self._cells = cells
        self._rows = rows
        count = len(self._cell(0).split())
        side = math.isqrt(count)
        self._side = side if side * side == count and side >= MIN_SIDE else math.isqrt(_USUAL)

    def _cell(self, index: int) -> bytes:
        start, end = self._cells[index]
        return self._text[start:end].strip(b' "\r\n\t')

    def shape(self, index: int) -> tuple[int, int, int]:
        """(height, width, 1), the same for every row."""
        return self._side, self._side, 1

    def image(self, index: int) -> np.ndarray:
        """uint8 (height, width, 1); DataError naming the row where the numbers are too few, too many or above 255."""
        cell = self._cell(index)
        values = _parse(cell)
        if values is None:
            values = self._parse_slowly(cell, index)
        if values.size != self._side**2:
            raise self._error(
                index, f"has {values.size:,} pixel values, expected {self._side**2:,} ({self._side} x {self._side})"
            )
        return values.reshape(self._side, self._side, 1)

    def _parse_slowly(self, cell: bytes, index: int) -> np.ndarray:
        values = np.empty(len(words := cell.split()), np.uint8)
        for i, word in enumerate(words):
            if not word.isdigit() or int(word) > 255:
                text = word[:20].decode("utf-8", "replace")
                raise self._error(index, f"holds the pixel value {text!r}, expected whole numbers 0 to 255")
            values[i] = int(word)
        return values

    def _error(self, index: int, text: str) -> DataError:
        return DataError(f"{self._path}: row {self._rows[index]} {text}")


def _parse(cell: bytes) -> np.ndarray | None:
    """Numbers of one to three digits between single spaces, 0 to 255; None if the text is anything else."""
    text = np.frombuffer(cell, np.uint8)
    spaces = np.flatnonzero(text == _SPACE)
    ends = np.append(spaces, text.size)
    lengths = np.diff(ends, prepend=-1) - 1
    digits = text - np.uint8(_ZERO)  # anything below "0" wraps around to above 9
    if text.size == 0 or lengths.min() < 1 or lengths.max() > 3 or np.count_nonzero(digits > 9) != spaces.size:
        return None
    values = digits[ends - 1].astype(np.int32)
    values += 10 * np.where(lengths > 1, digits[ends - 2], 0)
    values += 100 * np.where(lengths > 2, digits[ends - 3], 0)
    return values.astype(np.uint8) if values.max() <= 255 else None


def read_fer2013(path: Path, name: str = "") -> Listing:
    """List the rows of a CSV with the columns emotion, pixels and perhaps Usage.

    Args:
        path: the CSV.
        name: how errors call it; its path if empty.

    Raises:
        DataError: unreadable, missing columns, a row of another length, an emotion or a Usage that is not known.
    """
    try:
        with open(path, "rb") as file:
            text = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    columns = columns_of(text.readline().decode("utf-8", "replace"))
    if not set(columns) >= PIXEL_COLUMNS:
        raise unknown_columns(path, columns)
    emotion, pixels = columns.index("emotion"), columns.index("pixels")
    usage = columns.index("usage") if "usage" in columns else None
    cells: list[tuple[int, int]] = []
    rows: list[int] = []
    classes: list[str] = []
    split: list[str] = []
    number, start = 0, text.tell()
    while line := text.readline():
        number += 1
        where = f"{path}: row {number}"
        parts = line.split(b",")
        if line.strip():
            if len(parts) != len(columns):
                raise DataError(f"{where} has {len(parts)} cells, expected {len(columns)} ({','.join(columns)})")
            classes.append(_emotion(_word(parts[emotion]), where))
            split.append("" if usage is None else _usage(_word(parts[usage]), where))
            begin = start + sum(len(part) + 1 for part in parts[:pixels])
            cells.append((begin, begin + len(parts[pixels])))
            rows.append(number)
        start += len(line)
    if not rows:
        raise DataError(f"{path}: no rows below the header; expected one a picture")
    names = [f"row {row}" for row in rows]
    return Listing("fer2013.csv", FerPictures(path, text, cells, rows), names, classes, split, [""] * len(rows))


def _word(cell: bytes) -> str:
    return cell.strip(b' "\r\n\t').decode("utf-8", "replace")


def _emotion(word: str, where: str) -> str:
    name = _CODES.get(word) or canonical(word)
    if name is None:
        codes = ", ".join(f"{code} {label}" for code, label in _CODES.items())
        raise DataError(f"{where} has the emotion {word!r}; expected {codes}")
    return name


def _usage(word: str, where: str) -> str:
    if word.lower() not in SPLIT_NAMES:
        raise DataError(f"{where} has the Usage {word!r}; expected Training, PublicTest or PrivateTest")
    return SPLIT_NAMES[word.lower()]
