"""What is read: one entry for each input, and shards of entries, the unit of work that is done whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from operator import attrgetter

INPUTS = 1_000
"""Inputs in a shard, at most."""
BYTES = 256 << 20
"""Bytes of the inputs of a shard, at most, unless one alone has more."""

FILE, ZIP, TAR, SEQUENCE, WRONG = "file", "zip", "tar", "sequence", "wrong"


@dataclass(frozen=True, slots=True)
class Entry:
    """One input: an image, a film, or what could not be listed.

    Attributes:
        path: as rows show it.
        name: relative name, below the folder or archive that was named.
        kind: `FILE`; `ZIP` or `TAR` for a member of one; `SEQUENCE` for numbered images; `WRONG` for an error.
        source: the file or the archive to open: a path or an address.
        size: bytes.
        state: changes when the input does: size and time of change, or an object store's tag.
        member: name in a zip.
        offset: of the first byte in a tar.
        error: why it cannot be read, if the listing knows already.
        label, split, subject: what its folder or its row of a manifest says; "" if nothing.
    """

    path: str
    name: str
    kind: str
    source: str
    size: int = 0
    state: str = ""
    member: str = ""
    offset: int = 0
    error: str = ""
    label: str = ""
    split: str = ""
    subject: str = ""

    def line(self) -> str:
        """As one line of JSON."""
        return json.dumps(self.values(), separators=(",", ":"))

    def values(self) -> tuple[object, ...]:
        """What it is made of, in order. `dataclasses.astuple` would copy each value, which takes most of a listing's time."""
        return _values(self)


_values: Callable[[Entry], tuple[object, ...]] = attrgetter(*(each.name for each in fields(Entry)))


def wrong(path: str, error: str) -> Entry:
    """The entry of an input that cannot be listed."""
    return Entry(path, "", WRONG, path, error=error)


@dataclass(frozen=True)
class Shard:
    """Entries that are read together; `digest` tells whether another listing gives the same ones.

    Attributes:
        number: from 0, in the order of the listing.
        entries: in their order.
        refused: positions of entries that are not read, and why: each ended the process that read it.
    """

    number: int
    entries: tuple[Entry, ...]
    refused: dict[int, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What its files are called by.

        Example:
            >>> Shard(7, ()).name
            'part-00000007'
        """
        return f"part-{self.number:08d}"

    @property
    def digest(self) -> str:
        """SHA-256 over the entries."""
        found = hashlib.sha256()
        for entry in self.entries:
            found.update(entry.line().encode())
            found.update(b"\n")
        return found.hexdigest()

    @property
    def span(self) -> str:
        """Its first and last input, for people."""
        first, last = self.entries[0].path, self.entries[-1].path
        return first if first == last else f"{first} ... {last}"

    def as_json(self) -> dict[str, object]:
        """As plain data, which `shard_of` reads."""
        refused = {str(place): reason for place, reason in self.refused.items()}
        return {"number": self.number, "entries": [entry.values() for entry in self.entries], "refused": refused}


def shard_of(found: dict[str, object]) -> Shard:
    """The shard that `Shard.as_json` wrote."""
    entries = tuple(Entry(*values) for values in found["entries"])  # type: ignore[attr-defined]
    refused = {int(place): reason for place, reason in found["refused"].items()}  # type: ignore[attr-defined]
    return Shard(found["number"], entries, refused)  # type: ignore[arg-type]


def shards(entries: Iterable[Entry], most: int = INPUTS, most_bytes: int = BYTES) -> Iterator[Shard]:
    """Cut a stream of entries into shards; only the one being cut is held.

    Args:
        entries: in their order, which alone decides where the cuts are.
        most: entries in one.
        most_bytes: bytes in one, unless a single entry has more.

    Example:
        >>> films = [Entry(name, name, FILE, name, size) for name, size in (("a", 5), ("b", 5), ("c", 9))]
        >>> [len(shard.entries) for shard in shards(films, most_bytes=10)]
        [2, 1]
    """
    number, held, size = 0, list[Entry](), 0
    for entry in entries:
        if held and (len(held) >= most or size + entry.size > most_bytes):
            yield Shard(number, tuple(held))
            number, held, size = number + 1, [], 0
        held.append(entry)
        size += entry.size
    if held:
        yield Shard(number, tuple(held))
