"""FER+: ten votes for each image of FER-2013 (Barsoum et al. 2016), `fer2013new.csv` beside `fer2013.csv`.

The class of an image is that of most of its votes, as the authors' own code counts them in its majority mode: single votes are
taken as mistakes, and an image stays out where no class has more than half of the others, or where it is "unknown" or no face.
"""

from __future__ import annotations

from emotiw_keras.data.archive import Archive, FolderArchive
from emotiw_keras.data.layouts.fer2013 import PIXEL_COLUMNS, read_fer2013
from emotiw_keras.data.layouts.listing import Listing, and_more, split_named
from emotiw_keras.data.layouts.table import Layout, Source
from emotiw_keras.data.layouts.text_tables import columns_of, read_rows, whole_number
from emotiw_keras.errors import DataError
from emotiw_keras.talk import Notice
from emotiw_keras.text import number_of

VOTES = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
OUT = ("unknown", "nf")
MOST_VOTES = 1000
"""Of one class for one image; FER+ has ten in all."""


def majority(votes: list[int]) -> str:
    """The class with most of ten votes, in the order of `VOTES` and `OUT`; "" where there is none.

    Example:
        >>> majority([0, 6, 3, 1, 0, 0, 0, 0, 0, 0]), majority([4, 4, 2, 0, 0, 0, 0, 0, 0, 0])
        ('happiness', '')
    """
    counted = [vote if vote > 1 else 0 for vote in votes]
    most = max(counted)
    names = (*VOTES, *([""] * len(OUT)))
    return names[counted.index(most)] if most > 0.5 * sum(counted) else ""


def _detect(source: Source) -> bool:
    return len(source.tables_with(*VOTES, "usage")) == 1


def _read(source: Source) -> Listing:
    name = source.tables_with(*VOTES, "usage")[0]
    where = source.where(name)
    classes, splits = read_votes(source.archive, name, where)
    archive, pixels = _pixels(source)
    listing = read_fer2013(archive, pixels, str(archive.path / pixels), classes)
    given = [split for split, label in zip(splits, classes, strict=True) if label]
    if any(own and own != other for own, other in zip(listing.split, given, strict=True)):
        raise DataError(f"{where} and {pixels} put rows into different splits; expected the same rows in the same order")
    listing.layout, listing.split = "FER+", given
    left = len(classes) - len(listing.names)
    told = "classes by the majority of ten votes, single votes not counted; without a majority, unknown or no face, so left out"
    listing.notes.append(Notice(f"{told}: {number_of(left, 'images')}"))
    listing.used |= {name, pixels}
    return listing


def _pixels(source: Source) -> tuple[Archive, str]:
    """Where the images are: the table of pixels in the same folder or zip."""
    archive = FolderArchive(source.place.parent) if source.single else source.archive
    tables = source.tables_with(*PIXEL_COLUMNS) or [
        each
        for each in archive.names
        if each.rpartition("/")[2].lower() in ("fer2013.csv", "icml_face_data.csv")
        and {*PIXEL_COLUMNS} <= {*columns_of(archive.read(each, 4096))}
    ]
    if len(tables) != 1:
        saw = f"; it has {and_more(tables)}" if tables else ""
        raise DataError(f"{source.given} holds FER+'s votes, whose images are in fer2013.csv; put it beside them{saw}")
    return archive, tables[0]


def read_votes(archive: Archive, name: str, where: str) -> tuple[list[str], list[str]]:
    """Class ("" for none) and split of each row of `fer2013new.csv`."""
    counts, splits = read_counts(archive, name, where)
    return [majority(row) for row in counts], splits


def read_counts(archive: Archive, name: str, where: str) -> tuple[list[list[int]], list[str]]:
    """Votes, in the order of `VOTES` and `OUT`, and split of each row of `fer2013new.csv`."""
    rows = read_rows(archive, name, where)
    columns = [column.strip().lower() for column in rows[0]] if rows else []
    lacking = [column for column in (*VOTES, "usage") if column not in columns]
    if lacking:
        raise DataError(f"{where} has no column {lacking[0]!r}; expected FER+'s votes: Usage,Image name,{','.join(VOTES)},...")
    counts, splits = [], []
    for number, row in enumerate(rows[1:], start=1):
        if not row:
            continue
        cells = dict(zip(columns, row, strict=False))
        try:
            votes = [int(whole_number(cells.get(column, "0"))) for column in (*VOTES, *OUT)]
        except ValueError as error:
            raise DataError(f"{where}: row {number} has {error}; expected ten whole numbers of votes") from error
        split = split_named(cells["usage"])
        if split is None or len(row) != len(columns) or not all(0 <= vote <= MOST_VOTES for vote in votes):
            raise DataError(f"{where}: row {number} is {','.join(row)[:80]!r}; expected {','.join(columns)}")
        counts.append(votes)
        splits.append(split)
    return counts, splits


LAYOUT = Layout("FER+", "FER+ (fer2013new.csv with fer2013.csv)", _detect, _read)
