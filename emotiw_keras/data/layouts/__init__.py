"""The layouts that are recognised: one module for each family, and `find_layout`, which tells them apart."""

from __future__ import annotations

import csv
import os
import posixpath
import zipfile
from pathlib import Path

from emotiw_keras.data.archive import Archive, FolderArchive, ZipArchive, is_picture
from emotiw_keras.data.images import ImageError
from emotiw_keras.data.layouts.affwild2 import FACES, SETS, annotation_folder, find_videos
from emotiw_keras.data.layouts.fer2013 import read_fer2013
from emotiw_keras.data.layouts.folders import KNOWN, read_folders
from emotiw_keras.data.layouts.listing import Listing, Pictures, and_more
from emotiw_keras.data.layouts.prepared import is_prepared, read_prepared
from emotiw_keras.data.layouts.tables import (
    MANIFEST_COLUMNS,
    PIXEL_COLUMNS,
    columns_of,
    read_manifest,
    unknown_columns,
)
from emotiw_keras.errors import DataError
from emotiw_keras.labels import canonical

__all__ = ["KNOWN", "Listing", "Pictures", "classes_of", "find_layout"]

_HEADER_BYTES = 4096


def find_layout(path: str | os.PathLike[str]) -> Listing:
    """Recognise the layout of a data set and list its labelled pictures.

    Args:
        path: a CSV, a folder or a zip.

    Raises:
        DataError: missing, empty or unreadable, or the layout is not known (says what was seen and what is known).
    """
    if not os.fspath(path):
        raise DataError(f"the path of a data set is empty; known layouts: {KNOWN}")
    source = Path(path)
    try:
        mode = source.stat()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; give a folder, a zip or a CSV") from error
    if source.is_dir():
        if annotation_folder(source) is not None:
            raise DataError(f"{path} is a set of videos, Aff-Wild2, whose faces are cut out already; fit and evaluate read it")
        return _from_archive(FolderArchive(source))
    if not source.is_file():
        raise DataError(f"{path} is neither a file nor a folder; give a folder, a zip or a CSV")
    if mode.st_size == 0:
        raise DataError(f"{path} is empty (zero bytes)")
    if source.suffix.lower() == ".csv":
        return _from_csv(source)
    if source.suffix.lower() == ".zip" or zipfile.is_zipfile(source):
        return _from_archive(ZipArchive(source))
    raise DataError(f"{path}: layout not recognised: a file that is neither a zip nor a CSV; known: {KNOWN}")


def classes_of(path: str | os.PathLike[str]) -> list[str]:
    """Names of the classes in a data set of any layout, as it writes them; errors are those of `find_layout`."""
    videos = find_videos(path)
    return sorted(set(find_layout(path).classes if videos is None else videos.classes))


def _columns(head: bytes) -> list[str]:
    line = head.split(b"\n", 1)[0].decode("utf-8-sig", "replace")
    try:
        return columns_of(line)
    except csv.Error:
        return []  # no table, then: the caller names the columns it looks for


def _from_csv(path: Path) -> Listing:
    try:
        with open(path, "rb") as file:
            columns = _columns(file.read(_HEADER_BYTES))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    if set(columns) >= PIXEL_COLUMNS:
        return read_fer2013(path)
    if is_prepared(columns):
        return read_prepared(FolderArchive(path.parent, walk=False), path.name)
    if set(columns) >= MANIFEST_COLUMNS:
        return read_manifest(FolderArchive(path.parent, walk=False), path.name)
    raise unknown_columns(path, columns)


def _from_archive(archive: Archive) -> Listing:
    if isinstance(archive, ZipArchive) and any(f"{name}/" in member for member in archive.names for name in (FACES, *SETS)):
        raise DataError(f"{archive.path} holds Aff-Wild2's videos; unpack it and give the folder of annotations/ and {FACES}/")
    members = [name for name in archive.names if is_picture(name)]
    others = [name for name in archive.names if not is_picture(name)]
    tables = {name: _table_columns(archive, name) for name in others if name.lower().endswith(".csv")}
    prepared = [name for name, columns in tables.items() if is_prepared(columns)]
    manifests = [name for name, columns in tables.items() if set(columns) >= MANIFEST_COLUMNS and name not in prepared]
    pixels = [name for name, columns in tables.items() if set(columns) >= PIXEL_COLUMNS]
    if not members and len(pixels) == 1:
        if isinstance(archive, ZipArchive):
            raise DataError(f"{archive.path} holds {pixels[0]}; unpack it and give the CSV")
        return read_fer2013(archive.path / pixels[0])
    if not members:
        saw = f"{len(others):,} other files ({and_more(others)})" if others else "no files"
        raise DataError(f"{archive.path}: no pictures: saw {saw}; known layouts: {KNOWN}")
    if len(prepared) == 1:
        return read_prepared(archive, prepared[0])
    if len(manifests) == 1 and not _folders_are_classes(members):
        listing = read_manifest(archive, manifests[0])
        others.remove(manifests[0])
    else:
        listing = read_folders(archive, members)
    if others:
        listing.notes.append(f"no pictures, so left out: {len(others):,} files ({and_more(others)})")
    if archive.left_out:
        listing.notes.append(f"linked folders and special files left out: {and_more(archive.left_out)}")
    return listing


def _table_columns(archive: Archive, name: str) -> list[str]:
    try:
        return _columns(archive.read(name, _HEADER_BYTES))
    except ImageError:
        return []  # an unreadable table beside the pictures is one of the files left out by name


def _folders_are_classes(members: list[str]) -> bool:
    """Whether the folder right above each picture names an expression, so that a manifest beside them is not needed."""
    return all(canonical(posixpath.basename(posixpath.dirname(member))) for member in members)
