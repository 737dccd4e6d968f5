"""What the listings of folders, archives and stores share: what is left out, what folders say, and the end of a listing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from emotiw_keras.bulk.entries import Entry, wrong
from emotiw_keras.data.archive import printable
from emotiw_keras.data.images import SUFFIXES
from emotiw_keras.data.layouts.folders import split_of
from emotiw_keras.data.video_files import VIDEO_SUFFIXES
from emotiw_keras.talk import Notice, most
from emotiw_keras.text import number_of

_NAMED = 3
"""Files that are left out and named; the others are counted."""
Say = Callable[[str], None]


@dataclass
class LeftOut:
    """Files of a folder or archive that are neither images nor films."""

    count: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        self.count += 1
        if most(_NAMED) is None or len(self.names) < _NAMED:
            self.names.append(name)

    def told(self) -> str:
        """The first names and the number."""
        more = self.count - len(self.names)
        return ", ".join(map(printable, self.names)) + (f" and {more:,} more" if more else "")


def end_of(name: str, count: int, left: LeftOut, say: Say) -> Iterator[Entry]:
    """What is to be said when a folder or an archive has been listed."""
    if not count:
        known = " ".join(sorted(SUFFIXES | VIDEO_SUFFIXES))
        saw = f", but {number_of(left.count, 'other files')} ({left.told()})" if left.count else ""
        yield wrong(name, f"holds no images and no videos{saw}; looked for {known}")
    elif left.count:
        say(Notice(f"{name}: no images or videos, so left out: {number_of(left.count, 'files')} ({left.told()})"))


def placed(entry: Entry) -> Entry:
    """An entry with class and split by its folders: `train/happy/a.jpg`, `happy/a.jpg`; none for what lies in no folder."""
    parts = entry.name.split("/")[:-1]
    split = split_of(parts[0]) if parts else None
    inside = parts[1:] if split else parts
    return replace(entry, label=printable(inside[0]) if inside else "", split=split or "") if parts else entry
