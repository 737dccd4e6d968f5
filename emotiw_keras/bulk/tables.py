"""Lists of inputs, row by row: a text with a path a line, a CSV or a Parquet file with a column `path`."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, TextIO

from emotiw_keras.bulk.places import asked, store_of
from emotiw_keras.data.layouts.text_tables import encoding_of, separator_of
from emotiw_keras.errors import DataError, UsageError
from emotiw_keras.files import is_address

TEXT = (".txt", ".lst", ".list")
TABLES = (".csv", ".tsv")
PARQUET = (".parquet", ".pq")
SUFFIXES = TEXT + TABLES + PARQUET
COLUMNS = ("path", "label", "split", "subject", "size", "etag")
_LONGEST = 1 << 20
"""Characters of a line: no path is longer, a file that is no list may have no line breaks."""
_HEAD = 1 << 16
_ROWS = 10_000


def rows(name: str) -> Iterator[dict[str, str]]:
    """The rows of a list or manifest, with `path` and, where a table has them, `label`, `split` and `subject`, and of
    files of a store `size` in bytes and `etag`, which then need not be asked for.

    Raises:
        DataError: it cannot be read, or is no such list.
        UsageError: it is Parquet, and pyarrow is not installed.
    """
    suffix = os.path.splitext(name)[1].lower()
    try:
        file = _opened(name)
    except OSError as error:
        raise DataError(f"cannot read {name}: {error.strerror or 'no such file'}; give a list of inputs") from error
    with file:
        if suffix in PARQUET:
            yield from _parquet(name, file)
            return
        head = file.read(_HEAD)
        file.seek(0)
        with io.TextIOWrapper(file, encoding=encoding_of(head), newline="") as text:
            try:
                yield from _csv(name, text) if suffix in TABLES else _lines(name, text)
            except UnicodeDecodeError as error:
                raise DataError(f"{name}: not {error.encoding} at byte {error.start}; save it as UTF-8") from error


def _opened(name: str) -> BinaryIO:
    if not is_address(name):
        return open(name, "rb")
    system, path = store_of(name)
    return asked(name, lambda: system.open(path, "rb"))


def _lines(name: str, text: TextIO) -> Iterator[dict[str, str]]:
    number = 0
    while line := text.readline(_LONGEST):
        number += 1
        if len(line) == _LONGEST or "\0" in line:
            raise DataError(f"{name}: line {number:,} is no path; expected a text with one path a line")
        if line.strip():
            yield {"path": line.rstrip("\r\n")}


def _csv(name: str, text: TextIO) -> Iterator[dict[str, str]]:
    first = text.readline(_LONGEST)
    separator = separator_of(first)
    try:
        columns = _columns(name, [cell.strip().lower() for cell in next(csv.reader([first], delimiter=separator), [])])
        for number, row in enumerate(csv.reader(text, delimiter=separator, strict=True), start=1):
            if not row:
                continue
            if len(row) <= max(columns.values()):
                raise DataError(f"{name}: row {number:,} has {len(row)} cells, expected {max(columns.values()) + 1} or more")
            yield {column: row[place].strip() for column, place in columns.items()}
    except csv.Error as error:
        raise DataError(f"{name}: not a readable CSV: {error}") from error


def _columns(name: str, found: list[str]) -> dict[str, int]:
    columns = {column: found.index(column) for column in COLUMNS if column in found}
    if "path" not in columns:
        saw = ", ".join(re.sub(r"\s+", " ", column)[:40] for column in found[:8]) or "none"
        raise DataError(f"{name}: has no column 'path', but {saw}; give a table of inputs")
    return columns


def _parquet(name: str, file: BinaryIO) -> Iterator[dict[str, str]]:
    parquet = pyarrow_parquet()
    import pyarrow

    try:
        table = parquet.ParquetFile(file)
        found = [str(column) for column in table.schema_arrow.names]
        places = _columns(name, [column.lower() for column in found])
        wanted = {column: found[place] for column, place in places.items()}
        for batch in table.iter_batches(_ROWS, columns=list(wanted.values())):
            values = [batch.column(batch.schema.get_field_index(column)).to_pylist() for column in wanted.values()]
            for number, row in enumerate(zip(*values, strict=True)):
                cells = {column: "" if cell is None else str(cell) for column, cell in zip(wanted, row, strict=True)}
                if not cells["path"]:
                    raise DataError(f"{name}: a row without a path, number {number:,} of its group")
                yield cells
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{name}: not a readable Parquet file: {' '.join(str(error).split())[:200]}") from error


def pyarrow_parquet() -> Any:
    """pyarrow's module for Parquet.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError("Parquet needs pyarrow; `pip install 'emotiw-keras[parquet]'`, or use CSV and JSONL") from error
    return pyarrow.parquet
