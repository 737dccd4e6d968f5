"""The bytes of entries, wherever they lie, and what they are: images and films."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from emotiw_keras.bulk.entries import FILE, SEQUENCE, TAR, WRONG, ZIP, Entry
from emotiw_keras.bulk.places import asked, store_of
from emotiw_keras.data.archive import MEMBER_BYTES, ZipArchive, read_file
from emotiw_keras.data.images import ImageError
from emotiw_keras.data.prefetch import map_ahead
from emotiw_keras.data.video_files import is_video
from emotiw_keras.errors import DataError
from emotiw_keras.files import is_address

AHEAD = 8
"""Inputs of a store that are fetched at once: each waits for the network, and none is larger than `MEMBER_BYTES`."""
CHANGED = "changed since it was listed"
PACKED_FILM = {ZIP: "a video in a zip; unpack it first", TAR: "a video in a tar; unpack it first"}
Fetched = tuple[Entry, bytes | ImageError | None]


class Opener:
    """Opens entries; the zip that was used last stays open."""

    def __init__(self) -> None:
        self._zip: ZipArchive | None = None
        self._state = ""

    def fetched(self, entries: Sequence[Entry], at: Callable[[int], None], refused: dict[int, str]) -> Iterator[Fetched]:
        """Each entry with its bytes where they come from a store, fetched ahead; `at` is told each one's place first."""
        remote = any(is_address(entry.source) for entry in entries)

        def fetch(place: int) -> Fetched:
            entry = entries[place]
            if place in refused or not is_address(entry.source) or entry.kind == WRONG or is_video(entry.name):
                return entry, None
            try:
                return entry, self.data(entry)
            except ImageError as error:
                return entry, error

        places = range(len(entries))
        for place, found in enumerate(map_ahead(fetch, places, AHEAD) if remote else map(fetch, places)):
            at(place)
            yield (found[0], ImageError(refused[place])) if place in refused else found

    def data(self, entry: Entry) -> bytes:
        """The bytes of an image.

        Raises:
            ImageError: they cannot be had, with the reason.
            DataError: a store does not answer.
        """
        if entry.kind == WRONG:
            raise ImageError(entry.error)
        if entry.kind == SEQUENCE:
            raise ImageError("numbered images are one film, which `emotiw predict` reads; give their folder")
        if entry.kind in PACKED_FILM and is_video(entry.name):
            raise ImageError(PACKED_FILM[entry.kind])
        if is_address(entry.source):
            return self._stored(entry)
        if entry.kind != ZIP or self._state != entry.state + entry.source:
            self._check(entry)
        if entry.kind == FILE:
            return read_file(entry.source)
        return self._unzipped(entry) if entry.kind == ZIP else _untarred(entry)

    def _check(self, entry: Entry) -> None:
        try:
            facts = os.stat(entry.source)
        except OSError as error:
            raise ImageError(f"cannot read: {error.strerror or error}") from error
        if f"{facts.st_size}:{facts.st_mtime_ns}" != entry.state:
            raise ImageError(CHANGED)

    def _unzipped(self, entry: Entry) -> bytes:
        if self._zip is None or self._state != entry.state + entry.source:
            try:
                self._zip = ZipArchive(Path(entry.source))
            except DataError as error:
                raise ImageError(str(error)) from error
            self._state = entry.state + entry.source
        return self._zip.read(entry.member)

    def _stored(self, entry: Entry) -> bytes:
        if entry.size > MEMBER_BYTES:
            raise ImageError(f"larger than {MEMBER_BYTES >> 20} MiB")
        system, path = store_of(entry.source)
        start, end = (entry.offset, entry.offset + entry.size) if entry.kind == TAR else (None, None)
        try:
            data = bytes(asked(entry.path, lambda: system.cat_file(path, start=start, end=end)))
        except FileNotFoundError as error:
            raise ImageError("cannot read: no such file") from error
        except PermissionError as error:
            raise ImageError("cannot read: permission denied") from error
        if len(data) != entry.size:
            raise ImageError(CHANGED)
        return data

    @contextmanager
    def film(self, entry: Entry) -> Iterator[Path]:
        """A film as a file of this machine, for as long as the block lasts.

        Raises:
            ImageError: it cannot be had.
        """
        if entry.kind in PACKED_FILM:
            raise ImageError(PACKED_FILM[entry.kind])
        if not is_address(entry.source):
            self._check(entry)
            yield Path(entry.source)
            return
        system, path = store_of(entry.source)
        with tempfile.TemporaryDirectory(prefix="emotiw-") as folder:
            copy = Path(folder) / ("film" + os.path.splitext(entry.name)[1].lower())
            try:
                asked(entry.path, lambda: system.get_file(path, str(copy)))
            except FileNotFoundError as error:
                raise ImageError("cannot read: no such file") from error
            except PermissionError as error:
                raise ImageError("cannot read: permission denied") from error
            yield copy


def _untarred(entry: Entry) -> bytes:
    try:
        with open(entry.source, "rb") as file:
            file.seek(entry.offset)
            data = file.read(entry.size)
    except OSError as error:
        raise ImageError(f"cannot read: {error.strerror or error}") from error
    if len(data) != entry.size:
        raise ImageError("cannot read: the tar is cut short")
    return data


def is_film(entry: Entry) -> bool:
    """Whether an entry is a film of its own, by its name, or numbered images."""
    return entry.kind == SEQUENCE or (entry.kind == FILE and is_video(entry.name))
