"""What is written down of a shard that is done, and what comes together of all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from emotiw_keras.bulk.entries import Shard
from emotiw_keras.files import sha256_file
from emotiw_keras.plain_facts import integer, list_of, plain_name, sha256, table_of, text

Record = dict[str, Any]
FAILURES, NOTES = 3, 20
"""Failures that a record names, and remarks that it tells apart; it counts all, and the rows have all."""
OTHERS = "other remarks"


@dataclass
class Tally:
    """Counts of a shard, or of all.

    Attributes:
        inputs: entries of the listing.
        images: images and frames.
        rows: lines or rows of the parts.
        faces: found.
        failed: images or frames that could not be read.
        failures: path and reason of the first of these.
        notes: remarks on how images were read, with their numbers.
    """

    inputs: int = 0
    images: int = 0
    rows: int = 0
    faces: int = 0
    failed: int = 0
    failures: list[list[str]] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)

    def fail(self, path: str, reason: str) -> None:
        """Count an image that could not be read."""
        self.failed += 1
        if len(self.failures) < FAILURES:
            self.failures.append([path, reason])

    def counts(self) -> dict[str, int]:
        """The numbers."""
        return {name: getattr(self, name) for name in ("inputs", "images", "rows", "faces", "failed")}

    def add(self, record: Record) -> None:
        """Count a shard's record."""
        for name in self.counts():
            setattr(self, name, getattr(self, name) + record[name])
        self.failures += record["failures"][: FAILURES - len(self.failures)]
        self.notes += Counter(record["notes"])


def record_of(shard: Shard, tally: Tally, files: Mapping[str, Path]) -> Record:
    """The record of a shard whose files have been written, but may not have their names yet."""
    tally.inputs = len(shard.entries)
    notes = dict(tally.notes.most_common(NOTES))
    rest = sum(tally.notes.values()) - sum(notes.values())
    return {
        "shard": shard.number,
        **tally.counts(),
        "failures": tally.failures,
        "notes": notes | ({OTHERS: rest} if rest else {}),
        "span": [shard.entries[0].path, shard.entries[-1].path],
        "listing": shard.digest,
        "files": [{"name": name, "bytes": path.stat().st_size, "sha256": sha256_file(path)} for name, path in files.items()],
    }


def is_record(value: Any) -> TypeGuard[Record]:
    """Whether something that was read is what `record_of` gives."""
    count = integer(0, 1 << 53)
    return (
        isinstance(value, dict)
        and all(count(value.get(name)) for name in ("shard", *Tally().counts()))
        and list_of(list_of(text, 2))(value.get("failures"))
        and table_of(count)(value.get("notes"))
        and list_of(text, 2)(value.get("span"))
        and sha256(value.get("listing"))
        and list_of(_is_file, 1, 2)(value.get("files"))
    )


def _is_file(value: Any) -> bool:
    named = isinstance(value, dict) and plain_name(value.get("name")) and value["name"].startswith("part-")
    return named and integer(0, 1 << 53)(value.get("bytes")) and sha256(value.get("sha256"))
