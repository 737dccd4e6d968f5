"""`fer2013.csv` as Kaggle gave it out: `emotion,pixels,Usage`, one grey image a row as numbers in text; zipped or not."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Sequence

import numpy as np

from emotiw_keras.data.archive import Archive
from emotiw_keras.data.images import MIN_SIDE
from emotiw_keras.data.layouts.listing import SPLIT_NAMES, Listing, and_more
from emotiw_keras.data.layouts.manifest import unknown_columns
from emotiw_keras.data.layouts.table import Layout, Source
from emotiw_keras.data.layouts.text_tables import columns_of, mapped, separator_of, whole_number
from emotiw_keras.errors import DataError
from emotiw_keras.labels import NUMBER_CODES, canonical

PIXEL_COLUMNS = ("emotion", "pixels")
_CODES = NUMBER_CODES["FER-2013"]
_USUAL = 48 * 48
_SPACE = ord(" ")
_ZERO = ord("0")


class FerImages:
    """The pixel column of a mapped CSV; an image is parsed when it is asked for."""

    def __init__(self, where: str, text: mmap.mmap | bytes, cells: list[tuple[int, int]], rows: list[int]) -> None:
        self._where = where
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
        return DataError(f"{self._where}: row {self._rows[index]} {text}")


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


def _detect(source: Source) -> bool:
    return bool(source.tables_with(*PIXEL_COLUMNS)) and not source.images


def _read(source: Source) -> Listing:
    """The one table of pixels, or of several (Kaggle's challenge has four files) the one that says the splits."""
    tables = source.tables_with(*PIXEL_COLUMNS)
    whole = [name for name in tables if "usage" in source.tables[name]] if len(tables) > 1 else tables
    if len(whole) != 1:
        raise DataError(f"{source.given} holds {and_more(tables)}, each with emotion and pixels; give one of them")
    listing = read_fer2013(source.archive, whole[0], source.where(whole[0]))
    listing.used.add(whole[0])
    return listing


LAYOUT = Layout("fer2013.csv", "fer2013.csv (emotion,pixels[,Usage])", _detect, _read)


def read_fer2013(archive: Archive, member: str, where: str, classes: Sequence[str] | None = None) -> Listing:
    """List the rows of a table with the columns emotion, pixels and perhaps Usage.

    Args:
        archive: the folder or zip that holds it.
        member: its name there.
        where: how errors call it.
        classes: other class names for its rows, in their order, "" for rows that are left out; None takes its own.

    Raises:
        DataError: unreadable, missing columns, a row of another length, an emotion or a Usage that is not known.
    """
    text = mapped(archive, member, where)
    header = text[: max(0, text.find(b"\n")) or len(text)]
    columns = columns_of(header)
    if not set(columns) >= set(PIXEL_COLUMNS):
        raise unknown_columns(where, columns)
    table = _Table(columns, separator_of(header.decode("utf-8", "replace")).encode(), where)
    for start, line in _lines(text, len(header) + 1):
        table.add(start, line)
    if not table.rows:
        raise DataError(f"{where}: no rows below the header; expected one an image")
    if classes is not None:
        table.take(classes)
    names = [f"row {row}" for row in table.rows]
    images = FerImages(where, text, table.cells, table.rows)
    return Listing("fer2013.csv", images, names, table.classes, table.split, [""] * len(names))


def _lines(text: mmap.mmap | bytes, start: int) -> Iterator[tuple[int, bytes]]:
    while start < len(text):
        end = text.find(b"\n", start)
        end = len(text) if end < 0 else end + 1
        yield start, text[start:end]
        start = end


class _Table:
    """Where the pixels of each row stand, what it shows and its split."""

    def __init__(self, columns: list[str], separator: bytes, where: str) -> None:
        self._columns, self._separator, self._where = columns, separator, where
        self._emotion, self._pixels = columns.index("emotion"), columns.index("pixels")
        self._usage = columns.index("usage") if "usage" in columns else None
        self._number = 0
        self.cells: list[tuple[int, int]] = []
        self.rows: list[int] = []
        self.classes: list[str] = []
        self.split: list[str] = []

    def add(self, start: int, line: bytes) -> None:
        self._number += 1
        if not line.strip():
            return
        where = f"{self._where}: row {self._number}"
        parts = line.split(self._separator)
        if len(parts) != len(self._columns):
            raise DataError(f"{where} has {len(parts)} cells, expected {len(self._columns):,} ({and_more(self._columns)})")
        self.classes.append(_emotion(_word(parts[self._emotion]), where))
        self.split.append("" if self._usage is None else _usage(_word(parts[self._usage]), where))
        begin = start + sum(len(part) + 1 for part in parts[: self._pixels])
        self.cells.append((begin, begin + len(parts[self._pixels])))
        self.rows.append(self._number)

    def take(self, classes: Sequence[str]) -> None:
        """Other classes for the rows, without those that have none."""
        if len(classes) != len(self.rows):
            raise DataError(f"{self._where} has {len(self.rows):,} rows, the other labels {len(classes):,}; expected as many")
        kept = [i for i, name in enumerate(classes) if name]
        self.cells, self.rows = [self.cells[i] for i in kept], [self.rows[i] for i in kept]
        self.split = [self.split[i] for i in kept]
        self.classes = [classes[i] for i in kept]


def _word(cell: bytes) -> str:
    return cell.strip(b' "\r\n\t').decode("utf-8", "replace")


def _emotion(word: str, where: str) -> str:
    name = _CODES.get(whole_number(word)) or canonical(word)
    if name is None:
        codes = ", ".join(f"{code} {label}" for code, label in _CODES.items())
        raise DataError(f"{where} has the emotion {word!r}; expected {codes}")
    return name


def _usage(word: str, where: str) -> str:
    if word.lower() not in SPLIT_NAMES:
        raise DataError(f"{where} has the Usage {word!r}; expected Training, PublicTest or PrivateTest")
    return SPLIT_NAMES[word.lower()]
