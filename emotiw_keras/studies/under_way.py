"""What a study that is called again does to the tables of the call before."""

from __future__ import annotations

import csv
from pathlib import Path


def tells_more(file: Path, rows: int, all_rows: int) -> bool:
    """Whether a results.csv that is there has more than `rows` rows, of `all_rows` to come: a study that is called again begins
    with its first run, and must not take the rest away meanwhile."""
    if not file.is_file():
        return False
    with open(file, newline="", encoding="utf-8", errors="replace") as stream:
        there = sum(1 for _ in csv.DictReader(stream))
    return rows < min(there, all_rows)
