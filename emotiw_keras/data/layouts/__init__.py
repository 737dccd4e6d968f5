"""The layouts that are recognised, as a table: the first whose `detect` says yes is the one that reads."""

from __future__ import annotations

import os

from emotiw_keras.data.archive import printable
from emotiw_keras.data.layouts import (
    affectnet,
    affwild2,
    drawn,
    expw,
    fer2013,
    ferplus,
    file_names,
    folders,
    manifest,
    prepared,
    rafdb,
)
from emotiw_keras.data.layouts.affwild2 import Videos
from emotiw_keras.data.layouts.listing import Images, Listing, and_more
from emotiw_keras.data.layouts.table import Layout, NotRecognised, Source
from emotiw_keras.errors import DataError
from emotiw_keras.talk import Notice
from emotiw_keras.text import number_of

__all__ = ["KNOWN", "TABLE", "Layout", "Listing", "Images", "Source", "Videos", "classes_of", "find_layout"]

TABLE: tuple[Layout, ...] = (
    drawn.LAYOUT,
    affwild2.LAYOUT,
    ferplus.LAYOUT,
    fer2013.LAYOUT,
    prepared.LAYOUT,
    affectnet.FOLDERS,
    affectnet.TABLES,
    rafdb.LAYOUT,
    expw.LAYOUT,
    manifest.LAYOUT,
    file_names.LAYOUT,
    folders.SPLIT_FOLDERS,
    folders.CLASS_FOLDERS,
)
"""In this order: what is told by a file of its own comes before what folders tell."""

KNOWN = "; ".join(layout.written for layout in (fer2013.LAYOUT, *(each for each in TABLE if each is not fer2013.LAYOUT)))

_PACKED = (".zip", ".7z", ".rar", ".tar", ".gz", ".tgz", ".bz2", ".xz")


def find_layout(path: str | os.PathLike[str], limit: int | None = None) -> Listing | Videos:
    """Recognise the layout of a data set and list its labelled images, or its videos.

    Args:
        path: a CSV, a folder, a zip, or "generated:" and the name of a set that the package draws.
        limit: images per split that are asked for, of a set that is made when it is read.

    Raises:
        DataError: missing, empty or unreadable, or the layout is not known (says what was seen and what is known).
    """
    if not os.fspath(path):
        raise DataError(f"the path of a data set is empty; known layouts: {KNOWN}")
    source = Source(path, limit)
    try:
        layout = next((each for each in TABLE if each.detect(source)), None)
        if layout is None:
            raise _nothing_known(source)
        found = layout.read(source)
    except NotRecognised as error:
        raise DataError(f"{error}; known: {KNOWN}") from error
    if isinstance(found, Listing):
        _tell_what_is_left_out(found, source)
        # From here on names are text: what is in them stands in tables, pages and lines.
        for column in (found.names, found.classes, found.subject):
            column[:] = map(printable, column)
    return found


def classes_of(path: str | os.PathLike[str]) -> list[str]:
    """Names of the classes in a data set of any layout, as it writes them; errors are those of `find_layout`."""
    return sorted(set(find_layout(path).classes))


def _nothing_known(source: Source) -> DataError:
    if source.single:
        return manifest.unknown_columns(source.given, source.tables[source.place.name])
    saw = f"{number_of(len(source.names), 'other files')} ({and_more(source.names)})" if source.names else "no files"
    packed = [name for name in source.names if name.lower().endswith(_PACKED)]
    way = f"; unpack {and_more(packed)} there" if packed else ""
    return DataError(f"{source.given}: no images: saw {saw}{way}; known layouts: {KNOWN}")


def _tell_what_is_left_out(listing: Listing, source: Source) -> None:
    if listing.whole or source.single:
        return
    others = [name for name in source.names if name not in listing.used]
    images = set(source.images)
    if apart := [name for name in others if name not in images]:
        listing.notes.append(Notice(f"no images, so left out: {number_of(len(apart), 'files')} ({and_more(apart)})"))
    if apart := [name for name in others if name in images]:
        listing.notes.append(Notice(f"images that no class is given for, so left out: {len(apart):,} ({and_more(apart)})"))
    if source.archive.empty:
        told = f"folders without files: {len(source.archive.empty):,} ({and_more(source.archive.empty)})"
        listing.notes.append(Notice(told))
    if source.archive.left_out:
        told = "linked folders, special files and folders of systems and viewers left out"
        listing.notes.append(Notice(f"{told}: {and_more(source.archive.left_out)}"))
