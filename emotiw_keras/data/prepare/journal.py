"""What is done already, one line an image, written as it is done: what a call after an interruption goes on from."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from emotiw_keras.data.layouts.prepared import FACES_COLUMNS, VIDEO_COLUMNS
from emotiw_keras.data.prepare.faces import Row
from emotiw_keras.data.prepare.source import Item
from emotiw_keras.errors import RunError
from emotiw_keras.files import is_within, read_regular, write_atomic, writing
from emotiw_keras.sealed import strict_json

JOURNAL_FILE = ".prepare.jsonl"
_MARKS = ("state", "stem", "label", "split")
_COLUMNS = {*FACES_COLUMNS, *VIDEO_COLUMNS}
_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


class Journal:
    """The rows of each image that is done, with what the image was like then."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / JOURNAL_FILE
        self._cut_short = False
        self._inside: dict[str, bool] = {}
        self._records = self._read()
        self._kept: list[dict[str, Any]] = []
        self._file: TextIO | None = None

    def _read(self) -> dict[str, dict[str, Any]]:
        if not self._path.exists():
            return {}
        records = {}
        try:
            text = read_regular(self._path).decode("utf-8", "replace").replace("\r\n", "\n")
        except OSError as error:
            raise RunError(f"{self._path} cannot be read: {error.strerror or error}") from error
        self._cut_short = not text.endswith("\n") and bool(text)
        for line in text.split("\n"):
            try:
                record = strict_json(line)
            except ValueError:
                continue  # a line that a kill cut short: its image is done again
            if _is_record(record):  # so is that of a line that is damaged, or not ours
                records[record["member"]] = record
        return records

    def usable(self, items: Sequence[Item]) -> dict[int, list[Row]]:
        """Index -> rows of the images that have not changed since, and whose faces are still there."""
        found = {}
        for item in items:
            record = self._records.get(item.path)
            if record and _same(record, item):
                # who is shown depends on the folders beside, which may have come since
                rows = [dict.fromkeys(FACES_COLUMNS, "") | row | {"subject": item.subject} for row in record["rows"]]
                if all(self._is_face(row["output"]) for row in rows if row["output"]):
                    found[item.index] = rows
        return found

    def outputs(self) -> set[str]:
        """Every face written so far, of images that are gone as well."""
        return {row["output"] for record in self._records.values() for row in record["rows"] if row.get("output")}

    @property
    def has_frames(self) -> bool:
        """Whether films are among what is done."""
        return any(row.get("frame") for record in self._records.values() for row in record["rows"])

    def outputs_of_others(self, items: Sequence[Item]) -> set[str]:
        """Faces of images that are none of these, be it by another name: none has their size and time."""
        states = {_size_and_time(item.state) for item in items}
        others = (record for record in self._records.values() if _size_and_time(record["state"]) not in states)
        return {row["output"] for record in others for row in record["rows"] if row.get("output")}

    def _is_face(self, name: str) -> bool:
        """Whether there is a file of this name, not beyond a link, that is a face as `prepare` writes it: a square grey PNG."""
        path = self._folder / name
        parent = name.rpartition("/")[0]
        if parent not in self._inside:  # following links takes long, and thousands of faces lie in one folder
            self._inside[parent] = is_within(self._folder, path)
        if not self._inside[parent] or path.is_symlink() or not path.is_file():
            return False
        with open(path, "rb") as file:
            head = file.read(26)
        return head[:16] == _PNG and head[16:20] == head[20:24] and head[24:] == b"\x08\x00"

    def keep_below(self, folders: Sequence[str]) -> None:
        """Take the images in these folders, which cannot be read now, for neither gone nor done: their faces stay."""
        for path in [path for path in self._records if path.startswith(tuple(f"{folder}/" for folder in folders))]:
            self._kept.append(self._records.pop(path))

    def forget(self) -> None:
        """Take no image for done."""
        self._records.clear()
        with writing(self._path):
            self._path.unlink(missing_ok=True)

    def remove_all_but(self, outputs: set[str]) -> int:
        """Remove the faces of images that are gone, and count them; what the journal names but `prepare` did not make stays
        where it is."""
        faces = [name for name in self.outputs() - outputs if self._is_face(name)]
        for name in faces:
            with writing(self._folder / name):
                (self._folder / name).unlink(missing_ok=True)
        return len(faces)

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
        """Write down that an image is done."""
        assert self._file is not None
        with writing(self._path):
            self._file.write(_line(item, rows))
            self._file.flush()

    def rewrite(self, items: Sequence[Item], rows_of: Mapping[int, Sequence[Row]]) -> None:
        """Keep one line an image, in their order, and none of images that are gone."""
        kept = (json.dumps(record) + "\n" for record in self._kept)
        write_atomic(self._path, "".join([*(_line(item, rows_of[item.index]) for item in items), *kept]))


def _size_and_time(state: str) -> str:
    """A state without the time of change, which moving a file to another disk changes."""
    return ":".join(state.split(":")[:2])


def _marks(item: Item) -> dict[str, str]:
    return {"state": item.state, "stem": item.stem, "label": item.label, "split": item.split}


def _same(record: Mapping[str, Any], item: Item) -> bool:
    """Whether an image is as a line says; lines of 0.1 do not have the time of change, the last of a state."""
    now = _marks(item)
    if record["state"].count(":") == 1:
        now["state"] = _size_and_time(now["state"])
    return all(record[name] == value for name, value in now.items())


def _line(item: Item, rows: Sequence[Row]) -> str:
    kept = [{name: value for name, value in row.items() if value} for row in rows]
    record = {"member": item.path, **_marks(item), "rows": kept}
    return json.dumps({**record, "check": _check(record)}) + "\n"


def _check(record: Mapping[str, Any]) -> str:
    """A short hash of a line, which tells a damaged one."""
    content = {key: value for key, value in record.items() if key != "check"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _is_record(record: Any) -> bool:
    """Whether a line says what `add` writes; a stranger's could name any file as its output. Lines of 0.1 have no check."""
    if not isinstance(record, dict) or not all(isinstance(record.get(key), str) for key in ("member", *_MARKS)):
        return False
    rows = record.get("rows")
    if not isinstance(rows, list) or not rows or record.get("check", (expected := _check(record))) != expected:
        return False
    return all(_is_row(row, record) for row in rows)


def _is_row(row: Any, record: Mapping[str, Any]) -> bool:
    if not isinstance(row, dict) or not row.keys() <= _COLUMNS or not all(isinstance(value, str) for value in row.values()):
        return False
    if any(row.get(key, "") != record[name] for key, name in (("path", "member"), ("label", "label"), ("split", "split"))):
        return False
    output = row.get("output", "")
    made = rf"{re.escape(record['stem'])}(\.f\d{{5,}})?(\.face\d+)?\.png"
    return not output or (re.fullmatch(made, output) is not None and is_inside(output))


def is_inside(name: str) -> bool:
    """Whether the name of a file, with / between folders, stays inside the folder that it is relative to."""
    parts = name.split("/")
    elsewhere = os.name == "nt" and re.search(r"\\|:", name)
    return not any(part in ("", ".", "..") for part in parts) and "\0" not in name and not elsewhere
