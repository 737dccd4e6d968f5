"""What a row of the table of layouts is, and what its `detect` looks at."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from emotiw_keras.data.archive import Archive, FolderArchive, ZipArchive, is_image, printable
from emotiw_keras.data.images import ImageError
from emotiw_keras.data.layouts.text_tables import SUFFIXES, columns_of
from emotiw_keras.errors import DataError
from emotiw_keras.files import local_path

if TYPE_CHECKING:
    from emotiw_keras.data.layouts.affwild2 import Videos
    from emotiw_keras.data.layouts.listing import Listing

_HEADER_BYTES = 4096


class NotRecognised(DataError):
    """A source that has no known layout; whoever knows the table says which there are."""


@dataclass(frozen=True)
class Layout:
    """One row of the table.

    Attributes:
        name: what messages call it.
        written: how a list of the known layouts writes it.
        detect: whether a source has this layout; it reads names and first lines alone.
        read: lists the labelled images, or the videos. DataError where they cannot be meant.
    """

    name: str
    written: str
    detect: Callable[[Source], bool]
    read: Callable[[Source], Listing | Videos]


class Source:
    """What lies at the path of a data set, looked at once for all layouts.

    Args:
        path: as given; `~` is the home folder.
        limit: images per split that are asked for; heeded by sets that are made when they are read.

    Attributes:
        given: the path as given.
        place: the file or folder; of a set that is made when it is read, nothing is there.
    """

    def __init__(self, path: str | os.PathLike[str], limit: int | None = None) -> None:
        self.given = os.fspath(path)
        self.place = local_path(path)
        self.limit = limit

    @cached_property
    def single(self) -> bool:
        """Whether it is one table; DataError if there is nothing that could be a data set."""
        try:
            facts = self.place.stat()
        except OSError as error:
            raise DataError(f"cannot read {self.given}: {error.strerror}; give a folder, a zip or a CSV") from error
        if self.place.is_dir():
            return False
        if not self.place.is_file():
            raise DataError(f"{self.given} is neither a file nor a folder; give a folder, a zip or a CSV")
        if facts.st_size == 0:
            raise DataError(f"{self.given} is empty (zero bytes)")
        return self.place.suffix.lower() in SUFFIXES

    @cached_property
    def archive(self) -> Archive:
        """The folder or zip; of a single table, the folder around it, whose files are not listed."""
        if self.single:
            return FolderArchive(self.place.parent, walk=False)
        if self.place.is_dir():
            return FolderArchive(self.place)
        if self.place.suffix.lower() == ".zip" or zipfile.is_zipfile(self.place):
            return ZipArchive(self.place)
        raise NotRecognised(f"{self.given}: layout not recognised: a file that is neither a zip nor a CSV")

    @cached_property
    def names(self) -> list[str]:
        """All files, sorted."""
        return [self.place.name] if self.single else self.archive.names

    @cached_property
    def images(self) -> list[str]:
        """The files that are images by their names."""
        return [name for name in self.names if is_image(name)]

    @cached_property
    def tables(self) -> dict[str, list[str]]:
        """Each table's columns, in lower case; none for one that cannot be read."""
        return {name: self._columns(name) for name in self.names if name.lower().endswith(SUFFIXES)}

    def _columns(self, name: str) -> list[str]:
        try:
            if self.single:
                with open(self.place, "rb") as file:
                    return columns_of(file.read(_HEADER_BYTES))
            return columns_of(self.archive.read(name, _HEADER_BYTES))
        except OSError as error:
            raise DataError(f"cannot read {self.given}: {error.strerror}") from error
        except ImageError:
            return []  # an unreadable table beside the images is one of the files left out by name

    def tables_with(self, *columns: str) -> list[str]:
        """The tables that have all of these columns."""
        return [name for name, there in self.tables.items() if there and set(columns) <= set(there)]

    def named(self, *names: str) -> list[str]:
        """The files whose own name, in lower case, is one of these."""
        return [name for name in self.names if name.rpartition("/")[2].lower() in names]

    def where(self, name: str) -> str:
        """How messages call one of its files."""
        return str(self.archive.path / printable(name))

    @cached_property
    def paths_of(self) -> dict[str, list[str]]:
        """The files' own names -> where files of that name lie."""
        found: dict[str, list[str]] = {}
        for name in self.names:
            found.setdefault(name.rpartition("/")[2], []).append(name)
        return found
