"""What is done already, one line a picture, written as it is done: what a call after an interruption goes on from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from emotiw_keras.data.layouts.prepared import FACES_COLUMNS
from emotiw_keras.data.prepare.faces import Row
from emotiw_keras.data.prepare.source import Item
from emotiw_keras.files import write_atomic, writing

JOURNAL_FILE = ".prepare.jsonl"


class Journal:
    """The rows of each picture that is done, with what the picture was like then."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / JOURNAL_FILE
        self._cut_short = False
        self._records = self._read()
        self._file: TextIO | None = None

    def _read(self) -> dict[str, dict[str, Any]]:
        if not self._path.exists():
            return {}
        records = {}
        text = self._path.read_text("utf-8", "replace")
        self._cut_short = not text.endswith("\n") and bool(text)
        for line in text.split("\n"):
            try:
                record = json.loads(line)
            except ValueError:
                continue  # a line that a kill cut short: its picture is done again
            if isinstance(record, dict) and {"member", "state", "stem", "rows"} <= record.keys():
                records[record["member"]] = record
        return records

    def usable(self, items: Sequence[Item]) -> dict[int, list[Row]]:
        """Index -> rows of the pictures that have not changed since, and whose faces are still there."""
        found = {}
        for item in items:
            record = self._records.get(item.path)
            if record and all(record[name] == value for name, value in _marks(item).items()):
                rows = [dict.fromkeys(FACES_COLUMNS, "") | row for row in record["rows"]]
                if all((self._folder / row["output"]).is_file() for row in rows if row["output"]):
                    found[item.index] = rows
        return found

    def outputs(self) -> set[str]:
        """Every face written so far, of pictures that are gone as well."""
        return {row["output"] for record in self._records.values() for row in record["rows"] if row.get("output")}

    def __enter__(self) -> Journal:
        with writing(self._path):
            self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 - closed by __exit__
            self._file.write("\n" if self._cut_short else "")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._file is not None
        with writing(self._path):
            self._file.close()

    def add(self, item: Item, rows: Sequence[Row]) -> None:
        """Write down that a picture is done."""
        assert self._file is not None
        with writing(self._path):
            self._file.write(_line(item, rows))
            self._file.flush()

    def rewrite(self, items: Sequence[Item], rows_of: Mapping[int, Sequence[Row]]) -> None:
        """Keep one line a picture, in their order, and none of pictures that are gone."""
        write_atomic(self._path, "".join(_line(item, rows_of[item.index]) for item in items))


def _marks(item: Item) -> dict[str, str]:
    return {"state": item.state, "stem": item.stem, "label": item.label, "split": item.split}


def _line(item: Item, rows: Sequence[Row]) -> str:
    kept = [{name: value for name, value in row.items() if value} for row in rows]
    return json.dumps({"member": item.path, **_marks(item), "rows": kept}) + "\n"
