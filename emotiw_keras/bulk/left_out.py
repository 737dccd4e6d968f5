"""What the listings of folders, archives and stores share: what is left out, what folders say, and the end of a listing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from emotiw_keras.bulk.entries import Entry, wrong
from emotiw_keras.data.archive import printable
from emotiw_keras.data.images import SUFFIXES
from emotiw_keras.data.layouts.file_names import persons_named, told_by_names
from emotiw_keras.data.layouts.folders import place_of, split_of
from emotiw_keras.data.video_files import VIDEO_SUFFIXES, is_video
from emotiw_keras.labels import canonical
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


def placed(entry: Entry, depth: int = 0) -> Entry:
    """An entry with class, split and person by its name, as far as it tells them without the others: `train/happy/a.jpg`,
    `happy/a.jpg`, `anna/happy/a.jpg`, or files called as in a known set, which tell the class where no other folder is left;
    none for what lies in no folder.

    Args:
        entry: what was listed.
        depth: outermost folders that mean nothing (`enclosing_folders`).
    """
    parts = entry.name.split("/")
    *folders, file = parts[min(depth, len(parts) - 1) :]  # a file that has come since stands less deep
    split = split_of(folders[0]) if folders else None
    if split:
        folders = folders[place_of(entry.name, depth).folder.count("/") + 1 :]
    persons = persons_named([file])
    coded = told_by_names([file]) if not split else None
    told = _acted(entry.name) if is_video(file) else None
    if told is not None:
        label, subject = told
    elif coded is not None and all(_is_of_set(folder, coded[0], coded[1][0][1]) for folder in folders):
        label, subject = coded[1][0]
    elif len(folders) > 1 and canonical(folders[-1]) and not canonical(folders[0]):
        label, subject = folders[-1], folders[0]
    else:
        label, subject = folders[0] if folders else "", persons[1][0] if persons else ""
    return replace(entry, label=printable(label), split=split or "", subject=printable(subject))


def _is_of_set(folder: str, name: str, person: str) -> bool:
    """Whether a folder is that of a set (`KDEF`, `jaffedbase`) or of a person in it (`AF01`, `F01`), and so no class."""
    return name.casefold() in folder.casefold() or folder.upper() in (person, f"A{person}", f"B{person}")


def _acted(name: str) -> tuple[str, str] | None:
    from emotiw_keras.data.prepare.acted_videos import acted

    return acted(name)
