"""A study that is called again: the tables of the call before, and runs that cannot go on."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emotiw_keras.errors import EmotiwError


def tells_more(file: Path, rows: int, all_rows: int) -> bool:
    """Whether a results.csv that is there has more than `rows` rows, of `all_rows` to come: a study that is called again begins
    with its first run, and must not take the rest away meanwhile."""
    if not file.is_file():
        return False
    with open(file, newline="", encoding="utf-8", errors="replace") as stream:
        there = sum(1 for _ in csv.DictReader(stream))
    return rows < min(there, all_rows)


@contextmanager
def run_of_study(folder: Path) -> Iterator[None]:
    """Errors within that advise --restart, which a study does not have, say what to do in its place."""
    try:
        yield
    except EmotiwError as error:
        if "--restart" in str(error):  # the word alone may be in a name of theirs
            error.args = (
                f"{error}; a study has no --restart: move {folder} away, and the same command makes that run anew; for other "
                "settings give another --out",
            )
        raise
