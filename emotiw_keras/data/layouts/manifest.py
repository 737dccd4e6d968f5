"""The manifest: a table with a row for each image, `path,label[,split][,subject]`, or what people call these columns."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections.abc import Iterable

from emotiw_keras.data.archive import Archive, ArchiveImages, FolderArchive, checked_name
from emotiw_keras.data.layouts.listing import Listing, and_more, split_named
from emotiw_keras.data.layouts.table import Layout, Source
from emotiw_keras.data.layouts.text_tables import read_rows, whole_number
from emotiw_keras.errors import DataError
from emotiw_keras.labels import canonical
from emotiw_keras.talk import Notice

# The first name of a column that is there counts.
NAMES: dict[str, tuple[str, ...]] = {
    "path": ("path", "filename", "file_name", "filepath", "file_path", "file", "image", "image_path", "img", "img_path", "pth"),
    "label": ("label", "labels", "emotion", "expression", "class", "class_name"),
    "split": ("split", "usage"),
    "subject": ("subject", "subject_id", "person"),
}


def meanings(columns: list[str]) -> dict[str, str]:
    """path, label, split, subject -> the column that means it, for those that are there."""
    found = {meaning: next((name for name in names if name in columns), "") for meaning, names in NAMES.items()}
    return {meaning: name for meaning, name in found.items() if name}


def is_manifest(columns: list[str]) -> bool:
    """Whether a table's columns name images and what they show."""
    return {"path", "label"} <= set(meanings(columns)) and "pixels" not in columns


def unknown_columns(path: object, columns: list[str]) -> DataError:
    """The error of a CSV that is neither of the known two."""
    return DataError(
        f"{path}: the columns are {and_more(columns) or 'missing'}; expected emotion,pixels[,Usage] or "
        f"path,label[,split][,subject]; path may be called {', '.join(NAMES['path'][1:])}, "
        f"label {', '.join(NAMES['label'][1:])}"
    )


def _detect(source: Source) -> bool:
    manifests = [name for name, columns in source.tables.items() if is_manifest(columns)]
    if source.single:
        return bool(manifests)
    return len(manifests) == 1 and bool(source.images) and not _folders_are_classes(source.images)


def _read(source: Source) -> Listing:
    name = next(name for name, columns in source.tables.items() if is_manifest(columns))
    listing = read_manifest(source.archive, name)
    listing.whole = source.single
    return listing


LAYOUT = Layout("manifest", "a manifest CSV (path,label[,split][,subject])", _detect, _read)


def _folders_are_classes(members: list[str]) -> bool:
    """Whether the folder right above each image names an expression, so that a manifest beside them is not needed."""
    return all(canonical(posixpath.basename(posixpath.dirname(member))) for member in members)


def read_manifest(archive: Archive, member: str) -> Listing:
    """List the images that a manifest names; its paths are relative to the folder it lies in, or absolute and inside it.

    Args:
        archive: the folder or zip that holds the manifest and the images.
        member: the manifest's name in it.

    Raises:
        DataError: missing columns, a row of another length, an empty path or label, an unknown split, a path that
            leads out, the same path twice.
    """
    where = str(archive.path / member)
    rows = read_rows(archive, member, where)
    columns = [column.strip().lower() for column in rows[0]] if rows else []
    if not is_manifest(columns):
        raise unknown_columns(where, columns)
    if len(set(columns)) < len(columns):
        raise DataError(f"{where}: the columns {and_more(columns)} hold a name twice")
    meant = meanings(columns)
    folder = posixpath.dirname(member)
    listing = Listing("manifest", ArchiveImages(archive, members := []), [], [], [], [], used={member})
    first_row: dict[str, int] = {}
    for number, row in enumerate(rows[1:], start=1):
        if not any(cell.strip() for cell in row):
            continue
        at = f"{where}: row {number}"
        if len(row) != len(columns):
            raise DataError(f"{at} has {len(row)} cells, expected {len(columns):,} ({and_more(columns)})")
        cells = {column: cell.strip() for column, cell in zip(columns, row, strict=True)}
        path, label = cells[meant["path"]], whole_number(cells[meant["label"]])
        if not path or not label:
            raise DataError(f"{at} has no {meant['label' if path else 'path']}; fill it or remove the row")
        name = checked_name(_inside(path, archive, folder), at)
        if name in first_row:
            raise DataError(f"{at} names {name!r} again after row {first_row[name]}; keep one of them")
        first_row[name] = number
        members.append(posixpath.join(folder, name))
        listing.names.append(name)
        listing.classes.append(label)
        listing.split.append(_split(cells[meant["split"]], at) if "split" in meant else "")
        listing.subject.append(cells[meant["subject"]] if "subject" in meant else "")
    if not listing.names:
        raise DataError(f"{where}: no rows below the header; expected one an image")
    members[:] = _as_on_disk(archive, members)
    listing.used |= {*members}
    read = [f"{name} = {meaning}" for meaning, name in meant.items() if meaning != name]
    listing.notes += [f"columns read as: {', '.join(read)}"] if read else []
    extra = [column for column in columns if column not in meant.values()]
    listing.notes += [Notice(f"ignored columns: {and_more([each or '(no name)' for each in extra])}")] if extra else []
    return listing


def _inside(path: str, archive: Archive, folder: str) -> str:
    """An absolute path that lies in the manifest's folder as one relative to it; any other as it is."""
    if not os.path.isabs(path) or not isinstance(archive, FolderArchive):
        return path
    for root in (os.path.abspath(archive.path / folder), os.path.realpath(archive.path / folder)):
        if os.path.normpath(path).startswith(root.rstrip(os.sep) + os.sep):
            return os.path.relpath(path, root)
    return path


def _as_on_disk(archive: Archive, members: Iterable[str]) -> list[str]:
    """The names as the files have them: letters with accents are composed in one way in a table, in another on a disk."""
    names: dict[str, str] | None = None
    found = []
    for member in members:
        if not member.isascii():
            if names is None:
                there = archive.names or (FolderArchive(archive.path).names if archive.path.is_dir() else [])
                names = {unicodedata.normalize("NFC", name): name for name in there} | {name: name for name in there}
            member = names.get(member, names.get(unicodedata.normalize("NFC", member), member))
        found.append(member)
    return found


def _split(word: str, where: str) -> str:
    name = split_named(word)
    if name is None:
        raise DataError(f"{where}: unknown split {word!r}; expected train, val or test in every row, or no such column")
    return name
