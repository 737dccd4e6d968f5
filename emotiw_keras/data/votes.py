"""FER+'s votes beside the labels of FER-2013 (Barsoum et al. 2016, arXiv:1608.01041): joined to images, turned into labels.

The labels follow the authors' public code (github.com/microsoft/FERPlus, `src/ferplus.py` and `src/train.py`), which says what
the paper leaves open.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from emotiw_keras.data.archive import FolderArchive, printable
from emotiw_keras.data.layouts.ferplus import OUT, VOTES, read_counts
from emotiw_keras.data.layouts.listing import Listing, and_more
from emotiw_keras.data.layouts.text_tables import read_rows, whole_number
from emotiw_keras.errors import DataError, UsageError
from emotiw_keras.files import local_path
from emotiw_keras.labels import LABEL_SETS, VOTE_MODES, class_key
from emotiw_keras.talk import Notice
from emotiw_keras.text import number_of

if TYPE_CHECKING:
    from emotiw_keras.data.faceset import FaceSet

VOTED = LABEL_SETS["ferplus8"].labels
"""The classes that can be voted for, in the order of FER+'s columns; "unknown" and "no face" follow them."""
AGREED = 8
"""Votes of ten from which a face counts as one that people agree on."""
NONE = [0] * (len(VOTES) + len(OUT))
_FER_NAME = re.compile(r"fer(\d{7})\.\w+")


def check_votes(votes: str | os.PathLike[str] | None, votes_rows: str | os.PathLike[str] | None) -> None:
    """UsageError for a table of rows without the table that they are rows of."""
    if votes_rows is not None and votes is None:
        raise UsageError(f"votes_rows = {os.fspath(votes_rows)} says which row of votes an image is, but votes are not given")


def labels_of(votes: np.ndarray, mode: str) -> np.ndarray:
    """Votes as shares of the eight classes.

    Single votes are taken as mistakes. "unknown" and "no face" are two more classes in which votes are counted, but never
    learned: an image whose answer they are is left out.

    Args:
        votes: int (images, 10), of the classes of `VOTED`, unknown, no face.
        mode: "majority": the class with more than half of the votes. "cross_entropy" and "probabilistic": the classes with
            most votes, of which there may be three, until they have three quarters of all; if unknown or no face comes
            among them, what came before. "multi_label": the classes with 30 % of the votes or more. An image stays out where
            what is kept has no more than half of the votes.

    Returns:
        float32 (images, 8), each row of sum 1, or of zeros where the image is left out.

    Example:
        >>> labels_of(np.array([[0, 6, 3, 1, 0, 0, 0, 0, 0, 0]]), "cross_entropy").astype(float).round(2).tolist()
        [[0.0, 0.67, 0.33, 0.0, 0.0, 0.0, 0.0, 0.0]]
    """
    if mode not in VOTE_MODES:
        raise ValueError(f"mode = {mode!r}; expected one of {', '.join(VOTE_MODES)}")
    counted = np.where(np.asarray(votes) > 1, votes, 0)
    patterns, place = np.unique(counted, axis=0, return_inverse=True)  # ten votes fall alike for thousands of images
    kept = np.array([_KEPT.get(mode, _of_most)(row) for row in patterns.tolist()], np.float32).reshape(len(patterns), -1)
    total = kept.sum(axis=1)
    out = (total <= 0.5 * patterns.sum(axis=1)) | (kept.argmax(axis=1) >= len(VOTED))
    shares = np.where(out[:, None], 0, kept)[:, : len(VOTED)]
    shares = shares / np.maximum(shares.sum(axis=1, keepdims=True), 1)
    return shares.astype(np.float32)[place.reshape(-1)]


def _majority(votes: list[int]) -> list[int]:
    first = votes.index(max(votes))
    return [vote if place == first else 0 for place, vote in enumerate(votes)]


def _of_most(votes: list[int]) -> list[int]:
    """The classes with most votes; all zeros where more than three share them."""
    left, kept = list(votes), [0] * len(votes)
    while sum(kept) < 0.75 * sum(votes) and sum(map(bool, kept)) < 3:
        most = max(left)
        for place, vote in enumerate(left):
            if vote != most:
                continue
            if place >= len(VOTED) and any(kept):
                return kept if sum(map(bool, kept)) <= 3 else [0] * len(votes)
            kept[place], left[place] = vote, 0
            if place >= len(VOTED):
                return kept
    return kept if sum(map(bool, kept)) <= 3 else [0] * len(votes)


def _from_30_percent(votes: list[int]) -> list[int]:
    return [vote if vote >= 0.3 * sum(votes) else 0 for vote in votes]


_KEPT = {"majority": _majority, "multi_label": _from_30_percent}


def agreed(votes: np.ndarray) -> np.ndarray:
    """bool (images,): one of the eight classes has `AGREED` votes or more."""
    return np.asarray(votes)[:, : len(VOTED)].max(axis=1) >= AGREED


def entropy(shares: np.ndarray) -> np.ndarray:
    """How far raters disagree: the entropy of each row over its largest value, 0..1, float32 (images,)."""
    rows = np.asarray(shares, np.float64)
    terms = np.where(rows > 0, rows * np.log(np.maximum(rows, 1e-12)), 0.0)
    return (-terms.sum(axis=1) / np.log(rows.shape[1])).astype(np.float32)


def by_majority(faces: FaceSet) -> FaceSet:
    """The set with the majority of each image's votes as its label, -1 where there is none; a line of the report counts those.

    Args:
        faces: with votes; its labels are those to answer in, and a majority for another class is none.

    Raises:
        DataError: no image has one.
    """
    assert faces.votes is not None, "the set has no votes"
    shares = labels_of(faces.votes, "majority")
    place = {class_key(label): i for i, label in enumerate(faces.labels)}
    ids = np.array([place.get(label, -1) for label in VOTED], np.int64)
    label = np.where(shares.any(axis=1), ids[shares.argmax(axis=1)], -1)
    voted = (label >= 0) & (faces.label >= 0)
    without = int((~shares.any(axis=1)).sum())
    unknown = len(label) - without - int((label >= 0).sum())
    if not voted.any():
        raise DataError(f"{faces.source}: no image has a majority of votes for one of {', '.join(faces.labels)}")
    lacking = [name for name, i in zip(VOTED, ids, strict=True) if i < 0]
    told = f"labels by the majority of votes: {number_of(int(voted.sum()), 'images')}"
    told += f"; without a majority, so left out: {without:,}"
    told += f"; of {', '.join(lacking)}, so left out: {unknown:,}" if lacking else ""
    return replace(faces, label=np.where(voted, label, -1), report=[*faces.report, told])


def join_votes(
    listing: Listing, source: object, votes: str | os.PathLike[str], rows: str | os.PathLike[str] | None = None
) -> None:
    """Give each image of a listing its votes, and a note that says how they were joined.

    A `fer2013.csv` has FER+'s rows in FER+'s order; files that are called as FER+ calls them (fer0000000.png) say their row;
    for all others `rows` says it. A split that differs from the row's `Usage` is an error.

    Args:
        listing: of FER-2013, whole.
        source: its path, for messages.
        votes: `fer2013new.csv`.
        rows: a table with the columns file and row.

    Raises:
        DataError: a table that cannot be read, or images that are not the rows' images.
    """
    table = _table(votes)
    counts, splits = read_counts(*table)
    where = table[2]
    if rows is not None:
        places = _named_rows(listing.names, rows, len(counts))
        how = f"by {printable(os.fspath(rows))}"
    elif listing.layout == "fer2013.csv":
        if len(listing.names) != len(counts):
            raise DataError(f"{source} has {len(listing.names):,} rows, {where} {len(counts):,}; expected the same rows")
        places, how = [[row] for row in range(len(counts))], "row by row"
    else:
        own = _own_rows(listing.names, len(counts))
        if own is None:
            raise DataError(
                f"{source} ({listing.layout}) does not say which row of {where} an image is ({listing.names[0]} ...); name a "
                "table of file,row with --votes-rows FILE, of emotiw fit with --set source.NAME.votes_rows=FILE"
            )
        places, how = own, "by the names of the files"
    wrong = [(i, row) for i, its in enumerate(places) for row in its if listing.split[i] and listing.split[i] != splits[row]]
    if wrong:
        i, row = wrong[0]
        raise DataError(
            f"{len(wrong):,} images of {source} stand in another split than in {where}: {listing.names[i]} is "
            f"{listing.split[i]}, its row {row} there is {splits[row]}; expected the rows of the same images"
        )
    if not any(places):
        raise DataError(f"no image of {source} ({listing.names[0]} ...) is in {printable(os.fspath(rows or where))}")
    each = [{tuple(counts[row]) for row in its} for its in places]
    listing.votes = np.array([[*one.pop()] if len(one) == 1 else NONE for one in map(set, each)], np.int32)
    several = sum(len(one) > 1 for one in each)
    told = f"votes of {where}, {how}: {int(listing.votes.any(axis=1).sum()):,} of {number_of(len(places), 'images')}"
    without = f"{told}; {several:,} with several rows that differ are left without"
    listing.notes.append(Notice(without) if several else told)


def share_votes(votes: np.ndarray, pixel_hash: Sequence[str]) -> int:
    """Give images without votes those of the equal images that have some, where these agree; how many were given.

    Args:
        votes: int32 (images, 10), changed in place.
        pixel_hash: what tells images from others, "" where unknown.
    """
    known: dict[str, set[tuple[int, ...]]] = {}
    there = votes.any(axis=1)
    for i in np.flatnonzero(there).tolist():
        known.setdefault(pixel_hash[i], set()).add(tuple(votes[i].tolist()))
    shared = [i for i in np.flatnonzero(~there).tolist() if pixel_hash[i] and len(known.get(pixel_hash[i], ())) == 1]
    for i in shared:
        votes[i] = next(iter(known[pixel_hash[i]]))
    return len(shared)


def _table(path: str | os.PathLike[str]) -> tuple[FolderArchive, str, str]:
    """A single table as the readers of tables take it: its folder, its name, what messages call it."""
    place = local_path(path)
    if not place.is_file():
        raise DataError(f"cannot read {printable(os.fspath(path))}: no such file; expected a CSV")
    return FolderArchive(place.parent, walk=False), place.name, printable(os.fspath(path))


def _named_rows(names: Sequence[str], table: str | os.PathLike[str], count: int) -> list[list[int]]:
    """The rows that a table of file,row gives each image: equal pictures may have one file and several rows."""
    archive, name, where = _table(table)
    lines = read_rows(archive, name, where)
    columns = [column.strip().lower() for column in lines[0]] if lines else []
    if not {"file", "row"} <= set(columns):
        raise DataError(f"{where} has the columns {', '.join(columns) or 'of nothing'}; expected file,row")
    file, row = columns.index("file"), columns.index("row")
    rows: dict[str, list[int]] = {}
    taken: dict[int, str] = {}
    for number, line in enumerate(lines[1:], start=1):
        if not line:
            continue
        word = whole_number(line[row].strip()) if len(line) == len(columns) else ""
        if not (word.isascii() and word.isdigit() and len(word) < 10 and int(word) < count):
            raise DataError(
                f"{where}: row {number} is {','.join(line)[:80]!r}; expected a file and a row from 0 to {count - 1:,}"
            )
        if int(word) in taken:
            raise DataError(f"{where} gives row {word} to {taken[int(word)]} and to {line[file]}; expected one image a row")
        rows.setdefault(line[file], []).append(int(word))
        taken[int(word)] = line[file]
    return [rows.get(name) or rows.get(_below_first(name)) or [] for name in names]


def _below_first(name: str) -> str:
    """A name inside the one folder that a zip was packed with."""
    return name.partition("/")[2]


def _own_rows(names: Sequence[str], count: int) -> list[list[int]] | None:
    """The rows that files called as FER+ calls them say; None if some are called otherwise."""
    found = [_FER_NAME.fullmatch(name.rpartition("/")[2]) for name in names]
    rows = [int(match[1]) for match in found if match]
    if len(rows) != len(names) or len(set(rows)) != len(rows):
        return None
    if max(rows) >= count:
        raise DataError(f"{and_more([names[rows.index(max(rows))]])} is a row that FER+'s {count:,} rows do not have")
    return [[row] for row in rows]
