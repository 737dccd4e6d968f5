"""Reading the header line of a CSV, and the manifest layout: `path,label[,split][,subject]`."""

from __future__ import annotations

import csv
import io
import posixpath

from emotiw_keras.data.archive import Archive, checked_name
from emotiw_keras.data.images import ImageError
from emotiw_keras.data.layouts.listing import SPLIT_NAMES, ArchivePictures, Listing, and_more
from emotiw_keras.errors import DataError

PIXEL_COLUMNS = frozenset({"emotion", "pixels"})
MANIFEST_COLUMNS = frozenset({"path", "label"})
_OPTIONAL = frozenset({"split", "subject"})


def columns_of(line: str) -> list[str]:
    """The column names of a header line, stripped and in lower case."""
    row = next(csv.reader([line.lstrip("\ufeff")], skipinitialspace=True), [])
    return [column.strip().lower() for column in row]


def unknown_columns(path: object, columns: list[str]) -> DataError:
    """The error of a CSV that is neither of the known two."""
    return DataError(
        f"{path}: the columns are {and_more(columns) or 'missing'}; expected emotion,pixels[,Usage] or "
        "path,label[,split][,subject]"
    )


def read_rows(archive: Archive, member: str, where: str) -> list[list[str]]:
    """The rows of a UTF-8 CSV in a folder or zip, the header first; DataError if it is none."""
    try:
        text = archive.read(member).decode("utf-8-sig")
        return list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except ImageError as error:
        raise DataError(f"{where}: {error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{where}: not a readable CSV: {error}") from error


def read_manifest(archive: Archive, member: str) -> Listing:
    """List the pictures that a manifest names; its paths are relative to the folder it lies in.

    Args:
        archive: the folder or zip that holds the manifest and the pictures.
        member: the manifest's name in it.

    Raises:
        DataError: missing columns, a row of another length, an empty path or label, an unknown split, a path that
            leads out, the same path twice.
    """
    where = str(archive.path / member)
    rows = read_rows(archive, member, where)
    columns = [column.strip().lower() for column in rows[0]] if rows else []
    if not set(columns) >= MANIFEST_COLUMNS:
        raise unknown_columns(where, columns)
    if len(set(columns)) < len(columns):
        raise DataError(f"{where}: the columns {and_more(columns)} hold a name twice")
    folder = posixpath.dirname(member)
    notes = [f"ignored columns: {and_more(extra)}"] if (extra := _extra(columns)) else []
    listing = Listing("manifest", ArchivePictures(archive, members := []), [], [], [], [], notes)
    first_row: dict[str, int] = {}
    for number, row in enumerate(rows[1:], start=1):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(columns):
            expected = f"{len(columns)} ({','.join(columns)})"
            raise DataError(f"{where}: row {number} has {len(row)} cells, expected {expected}")
        cells = {column: cell.strip() for column, cell in zip(columns, row, strict=True)}
        if not cells["path"] or not cells["label"]:
            missing = "label" if cells["path"] else "path"
            raise DataError(f"{where}: row {number} has no {missing}; fill it or remove the row")
        name = checked_name(cells["path"], f"{where}: row {number}")
        if name in first_row:
            raise DataError(f"{where}: row {number} names {name!r} again after row {first_row[name]}; keep one of them")
        first_row[name] = number
        members.append(posixpath.join(folder, name))
        listing.names.append(name)
        listing.classes.append(cells["label"])
        listing.split.append(_split(cells, f"{where}: row {number}"))
        listing.subject.append(cells.get("subject", ""))
    if not listing.names:
        raise DataError(f"{where}: no rows below the header; expected one a picture")
    return listing


def _extra(columns: list[str]) -> list[str]:
    return [column for column in columns if column not in MANIFEST_COLUMNS | _OPTIONAL]


def _split(cells: dict[str, str], where: str) -> str:
    if "split" not in cells:
        return ""
    if cells["split"].lower() not in SPLIT_NAMES:
        raise DataError(
            f"{where}: unknown split {cells['split']!r}; expected train, val or test in every row, or no such column"
        )
    return SPLIT_NAMES[cells["split"].lower()]
