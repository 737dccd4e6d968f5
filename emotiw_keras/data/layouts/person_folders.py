"""Folders below the classes, `<class>/<person>/face.png`: whether they are persons. Where that is not plain, they are not."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from emotiw_keras.data.layouts.listing import and_more, split_named
from emotiw_keras.labels import canonical

LEAST = 5
"""With fewer folders nothing tells persons from halves, views or sources of a set; five folds need as many."""
_WORDS = frozenset(
    "raw original cropped crops aligned unaligned faces images photos pictures frames clean noisy augmented synthetic "
    "generated real posed spontaneous gray grey color colour rgb ir depth front frontal profile left right side up down center "
    "centre male female men women man woman boys girls adults children young old indoor outdoor day night good bad new other "
    "misc unknown low medium high weak strong".split()
)
_PIECE = re.compile(
    r"(batch|part|fold|set|split|chunk|shard|cam|camera|view|pose|angle|session|day|week|clip|video|sequence|seq|take|shot|scene|"
    r"trial|run|group|frame|crop|image|img|photo|folder|dir|disk|level|age)s?[ _-]*\d*|\d+x\d+|\d{4}-\d\d(-\d\d)?",
    re.IGNORECASE,
)


def persons_by_folder(places: Sequence[Sequence[str]]) -> tuple[list[str] | None, str]:
    """The person of each image if the folders below the classes are persons, else None; and a line on how they were read.

    They are where every image lies in one, there are at least `LEAST`, most of them occur under several classes, none is called
    by a word for parts, views, splits or expressions, and they are no numbers that begin anew in each class and end otherwise.
    Where all end alike they may be clips as well as persons: none is ever on two sides, and the line says so.

    Args:
        places: class folder, further folders and file name of each image.

    Example:
        >>> shown = [(c, p, "1.png") for c in ("happy", "sad") for p in ("anna", "ben", "cleo", "dora", "emil")]
        >>> persons_by_folder(shown)[0][:2], persons_by_folder([("happy", "1.png"), ("sad", "2.png")])
        (['anna', 'ben'], (None, ''))
    """
    under: dict[str, set[str]] = defaultdict(set)
    for place in places:
        if len(place) > 2:
            under[place[1]].add(place[0])
    if not under:
        return None, ""
    names = sorted(under)
    why = _why_not(under, sum(len(place) == 2 for place in places))
    if why:
        return None, f"folders below the classes are not read as persons ({and_more(names)}): {why}"
    told = f"folders below the classes read as persons: {and_more(names)}"
    if _how_far(under):
        told += (
            "; they are numbers, the same in each class: where they are no persons, subject_pattern '^(.+)/' keeps each folder "
            "together by itself, and none nobody"
        )
    return [place[1] for place in places], told


def _why_not(under: Mapping[str, set[str]], beside: int) -> str:
    if beside:
        return f"{beside:,} images lie beside them"
    if len(under) < LEAST:
        return f"there are fewer than {LEAST}"
    words = sorted(name for name in under if _is_word(name))
    if words:
        return f"{words[0]} is no person's name"
    several = sum(len(classes) > 1 for classes in under.values())
    if 2 * several <= len(under):
        return f"{len(under) - several:,} of {len(under):,} are in one class alone"
    return "they are numbered anew in each class" if len(_how_far(under)) > 1 else ""


def _is_word(name: str) -> bool:
    plain = name.strip().lower()
    return bool(plain in _WORDS or split_named(plain) or canonical(name) or _PIECE.fullmatch(plain))


def _how_far(under: Mapping[str, set[str]]) -> set[int]:
    """How many folders the classes have each, where all number them without a gap and from the same number on; else none."""
    if not all(name.isdecimal() for name in under):
        return set()
    numbers: dict[str, list[int]] = defaultdict(list)
    for name, classes in under.items():
        for each in classes:
            numbers[each].append(int(name))
    first = min(map(min, numbers.values()))
    without_gap = all(sorted(found) == list(range(first, first + len(found))) for found in numbers.values())
    return {len(found) for found in numbers.values()} if without_gap else set()
