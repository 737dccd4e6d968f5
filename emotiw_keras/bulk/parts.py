"""Parts: the rows of a shard as JSONL or Parquet, the same bytes for the same rows, written and read one row at a time."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from emotiw_keras.bulk.places import Folder
from emotiw_keras.bulk.tables import pyarrow_parquet
from emotiw_keras.data.archive import printable
from emotiw_keras.data.layouts.prepared import FACES_COLUMNS, VIDEO_COLUMNS
from emotiw_keras.errors import RunError
from emotiw_keras.sealed import json_text, strict_json

FORMATS = ("jsonl", "parquet")
Row = dict[str, Any]
_GROUP = 10_000
"""Rows of a group of a Parquet file, which are held until it is full."""
_LONGEST = 1 << 24
_NUMBERS = {
    "frame": "int64", "seconds": "double", "face": "int64", "x": "double", "y": "double", "width": "double", "height": "double",
    "left_x": "double", "left_y": "double", "right_x": "double", "right_y": "double", "detector_score": "double",
}  # fmt: skip
_AFFECT = ("valence", "arousal")
_BOX, _EYES = ("x", "y", "width", "height"), ("left_x", "left_y", "right_x", "right_y")


class JsonLines(AbstractContextManager["JsonLines"]):
    """One object a line."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "wb")  # noqa: SIM115 - closed by __exit__

    def add(self, row: Row) -> None:
        """Write a row."""
        self._file.write(json_text(row).encode() + b"\n")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()


class Parquet(AbstractContextManager["Parquet"]):
    """Columns as `emotiw predict --csv` has them, or those of `faces.csv`, where `labels` is None."""

    def __init__(self, path: Path, labels: Sequence[str] | None) -> None:
        parquet = pyarrow_parquet()
        import pyarrow

        self._pyarrow, self._labels, self._rows = pyarrow, labels, list[Row]()
        if labels is None:
            columns = dict.fromkeys((*FACES_COLUMNS, *VIDEO_COLUMNS), "string")
        else:
            columns = {"path": "string", **_NUMBERS, "label": "string"}
            columns |= {f"p_{label}": "double" for label in labels} | {"uncertain": "bool"}
            columns |= {"derived_valence": "double", "derived_arousal": "double", "doubt": "string", "error": "string"}
        types = {"bool": pyarrow.bool_(), "string": pyarrow.string(), "int64": pyarrow.int64(), "double": pyarrow.float64()}
        self._schema = pyarrow.schema([(name, types[kind]) for name, kind in columns.items()])
        self._writer = parquet.ParquetWriter(path, self._schema)

    def add(self, row: Row) -> None:
        """Hold a row, and write the group when it is full."""
        self._rows.append(_flat(row, self._labels) if self._labels is not None else row)
        if len(self._rows) >= _GROUP:
            self._write()

    def _write(self) -> None:
        self._writer.write_table(self._pyarrow.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None and self._rows:
            self._write()
        self._writer.close()


def _flat(row: Row, labels: Sequence[str]) -> Row:
    flat = {key: row[key] for key in ("frame", "seconds", "face", "detector_score", "label", "uncertain", "doubt", "error")}
    flat["path"] = printable(row["path"])
    flat |= dict(zip(_BOX, row["box"] or [None] * 4, strict=True))
    flat |= dict(zip(_EYES, [value for eye in row["eyes"] for value in eye] if row["eyes"] else [None] * 4, strict=True))
    flat |= {f"derived_{key}": row["derived"] and row["derived"][key] for key in _AFFECT}
    return flat | {f"p_{label}": row["probabilities"] and row["probabilities"][label] for label in labels}


def _nested(flat: Row) -> Row:
    """A row of Parquet as its command has it in JSON."""
    if "error" not in flat:
        return {key: value for key, value in flat.items() if value is not None}
    row = {key: flat[key] for key in ("path", "frame", "seconds", "face")}
    row["box"] = None if flat["x"] is None else [flat[key] for key in _BOX]
    row["eyes"] = None if flat["left_x"] is None else [[flat[a], flat[b]] for a, b in (_EYES[:2], _EYES[2:])]
    row |= {"detector_score": flat["detector_score"], "label": flat["label"]}
    chances = {key[2:]: value for key, value in flat.items() if key.startswith("p_")}
    row["probabilities"] = chances if flat["label"] is not None else None
    affect = {key: flat[f"derived_{key}"] for key in _AFFECT}
    row |= {"uncertain": flat["uncertain"], "derived": None if affect["valence"] is None else affect}
    return row | {"doubt": flat["doubt"], "error": flat["error"]}


def writer(path: Path, kind: str, labels: Sequence[str] | None) -> JsonLines | Parquet:
    """What writes rows to a new file; UsageError where Parquet cannot be written."""
    return Parquet(path, labels) if kind == "parquet" else JsonLines(path)


class _Hashing:
    """A file that hashes what is read from it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def lines(self) -> Iterator[bytes]:
        while line := self._file.readline(_LONGEST):
            self.digest.update(line)
            yield line

    def copy(self, target: BinaryIO) -> None:
        while block := self._file.read(1 << 20):
            self.digest.update(block)
            target.write(block)


def read_part(folder: Folder, name: str, sha256: str, kind: str) -> Iterator[Row]:
    """The rows of a part; where it is not what was written, an error comes at its end at the latest.

    Raises:
        RunError: it is missing or damaged.
    """
    place = f"{folder.name}/{name}"
    mend = "remove it and run the same command again, which makes it anew"
    try:
        file = folder.open(name)
    except OSError as error:
        raise RunError(f"{place} cannot be read: {error.strerror or 'no such file'}; run the same command again") from error
    with file:
        hashed = _Hashing(file)
        if kind == "parquet":
            with tempfile.TemporaryFile() as copy:
                hashed.copy(copy)
                if hashed.digest.hexdigest() != sha256:
                    raise RunError(f"{place} is damaged: its SHA-256 is not what was written; {mend}")
                copy.seek(0)
                for batch in pyarrow_parquet().ParquetFile(copy).iter_batches(_GROUP):
                    yield from map(_nested, batch.to_pylist())
            return
        for line in hashed.lines():
            try:
                row = strict_json(line)
            except ValueError as error:
                raise RunError(f"{place} is damaged: a line is no JSON ({error}); {mend}") from error
            if not isinstance(row, dict):
                raise RunError(f"{place} is damaged: a line is no JSON object; {mend}")
            yield row
    if hashed.digest.hexdigest() != sha256:
        raise RunError(f"{place} is damaged: its SHA-256 is not what was written; {mend}")


def dumped(record: dict[str, Any]) -> str:
    """A record as one line."""
    return json.dumps(record, separators=(",", ":")) + "\n"
