"""What `emotiw prepare` leaves: aligned faces and `faces.csv`, which says where each comes from and what it shows."""

from __future__ import annotations

import posixpath
import re

from emotiw_keras.data.archive import Archive, ArchiveImages, FolderArchive, checked_name
from emotiw_keras.data.images import ImageError
from emotiw_keras.data.layouts.listing import SPLIT_NAMES, Listing, and_more
from emotiw_keras.data.layouts.table import Layout, Source
from emotiw_keras.data.layouts.text_tables import read_rows
from emotiw_keras.errors import DataError
from emotiw_keras.faces.alignment import READINGS
from emotiw_keras.sealed import strict_json
from emotiw_keras.talk import Notice

FACES_FILE = "faces.csv"
SETTINGS_FILE = "prepare.json"
FACES_COLUMNS = tuple(
    "path,face,x,y,width,height,left_x,left_y,right_x,right_y,detector_score,roll_degrees,sharpness,label,split,status,output"
    .split(",")
)  # fmt: skip
VIDEO_COLUMNS = ("subject", "frame")
"""What faces have besides where persons are known, or out of videos: the person or speaker, and the frame's number from 0."""
OK = "ok"
# One manifest or several (`bulk`), which know who is shown.
_MANIFEST = re.compile(r"([^,]+\.(csv|tsv|parquet|pq)(, |$))+", re.IGNORECASE)


def read_prepared(archive: Archive, member: str) -> Listing:
    """List the faces that were written; rows without a face, without a class or without a split are left out and counted.

    Args:
        archive: the folder or zip that holds the table and the faces.
        member: the table's name in it.

    Raises:
        DataError: a row of another length, an unknown split, an output that leads out, or no labelled face at all.
    """
    where = str(archive.path / member)
    rows = read_rows(archive, member, where)
    columns = [column.strip().lower() for column in rows[0]]
    folder = posixpath.dirname(member)
    members: list[str] = []
    listing = Listing("prepared faces", ArchiveImages(archive, members), [], [], [], [], whole=True)
    table = []
    for number, row in enumerate(rows[1:], start=1):
        if len(row) != len(columns):
            raise DataError(f"{where}: row {number} has {len(row)} cells, expected {len(columns)}")
        cells = dict(zip(columns, row, strict=True))
        if cells["split"] and cells["split"] not in SPLIT_NAMES.values():
            raise DataError(f"{where}: row {number} has the split {cells['split']!r}; expected train, val, test or none")
        table.append((number, cells))
    written = [(number, cells) for number, cells in table if cells["output"]]
    labelled = [(number, cells) for number, cells in written if cells["label"]]
    has_splits = any(cells["split"] for _, cells in labelled)
    kept = [(number, cells) for number, cells in labelled if cells["split"] or not has_splits]
    for number, cells in kept:
        name = checked_name(cells["output"], f"{where}: row {number}", windows=not isinstance(archive, FolderArchive))
        members.append(posixpath.join(folder, name))
        listing.names.append(name)
        listing.classes.append(cells["label"])
        listing.split.append(cells["split"])
        # Frames of one video are alike: where nobody knows who it is, the video itself stands for the person.
        listing.subject.append(cells.get("subject") or (cells["path"] if cells.get("frame") else ""))
    if not kept:
        raise DataError(f"{where}: no faces with a class among {len(table):,} rows; prepare images that lie in class folders")
    settings = posixpath.join(folder, SETTINGS_FILE)
    try:
        listing.reading, source = _settings(archive.read(settings), str(archive.path / settings))
    except ImageError as error:
        raise DataError(
            f"{where}: {SETTINGS_FILE} beside it, which says how the faces were cut: {error}; prepare them again"
        ) from error
    by_names = not _MANIFEST.fullmatch(source) and not any(cells.get("frame") for _, cells in kept)
    if any(listing.subject) and by_names:
        listing.guess = "persons as names of folders or files told them when the faces were cut out"
    listing.notes += _notes(table, written, labelled, kept)
    return listing


def _detect(source: Source) -> bool:
    return len(source.tables_with(*FACES_COLUMNS)) == 1


def _read(source: Source) -> Listing:
    return read_prepared(source.archive, source.tables_with(*FACES_COLUMNS)[0])


LAYOUT = Layout("prepared faces", "what emotiw prepare wrote", _detect, _read)


def _settings(data: bytes, where: str) -> tuple[str, str]:
    """How the faces were cut, and out of what ("" where that is not known)."""
    try:
        settings = strict_json(data)
        reading, source = settings["reading"], settings.get("source")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{where} is damaged ({error}); prepare the faces again") from error
    if not isinstance(reading, str) or reading not in READINGS:
        raise DataError(f"{where}: unknown reading {reading!r:.40} of the crop; known: {', '.join(READINGS)}")
    return reading, source if isinstance(source, str) else ""


def _notes(*stages: list[tuple[int, dict[str, str]]]) -> list[str]:
    notes: list[str] = []
    reasons = ("without a face of their own", "without a class", "without a split where others have one")
    for before, after, reason in zip(stages, stages[1:], reasons, strict=False):
        if len(before) > len(after):
            numbers = {number for number, _ in after}
            names = [cells["path"] for number, cells in before if number not in numbers]
            notes.append(Notice(f"rows {reason}, left out: {len(names):,} ({and_more(names)})"))
    doubtful = [cells["output"] for _, cells in stages[-1] if cells["status"] != OK]
    if doubtful:
        notes.append(Notice(f"faces that are not sure, kept: {len(doubtful):,} ({and_more(doubtful)}); their status says why"))
    return notes
