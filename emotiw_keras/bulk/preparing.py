"""A shard of `emotiw prepare`: its inputs -> rows as those of `faces.csv`, and a tar of the faces that were cut out."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from emotiw_keras.bulk.entries import Entry, Shard
from emotiw_keras.bulk.job import Job, Record
from emotiw_keras.bulk.opening import Fetched, Opener
from emotiw_keras.bulk.parts import writer
from emotiw_keras.bulk.places import Folder
from emotiw_keras.bulk.records import Tally, record_of
from emotiw_keras.data.archive import printable
from emotiw_keras.data.images import ImageError
from emotiw_keras.data.layouts.prepared import OK
from emotiw_keras.data.prepare.face_settings import Settings
from emotiw_keras.data.prepare.faces import CENTRE, UNREADABLE, FaceCutter, Outcome, Row, failed
from emotiw_keras.data.prepare.source import Item
from emotiw_keras.data.video_files import sample_frames

_PLAIN = re.compile(r"[^A-Za-z0-9_-]+")
_LONGEST = 48
"""Characters of an input's name that stay in the name of its faces: a tar's own names have at most 100."""


class _Cutter(FaceCutter):
    """Takes the bytes of entries, and puts faces into a tar."""

    def __init__(self, job: Job) -> None:
        from emotiw_keras.faces.detectors import get_detector

        self._detector = get_detector(job.settings["detector"])
        self._settings = Settings(**job.settings)
        self._opener = Opener()
        self._entry: Entry
        self._bytes: bytes | None = None
        self.tar: tarfile.TarFile

    def fetched(self, shard: Shard, at: Callable[[int], None]) -> Iterator[Fetched]:
        """As `Opener.fetched`."""
        return self._opener.fetched(shard.entries, at, shard.refused)

    def outcome(self, entry: Entry, data: bytes | ImageError | None, item: Item) -> Outcome:
        """What came of an entry."""
        self._entry = entry
        if isinstance(data, ImageError):
            return Outcome(item.index, [failed(item, str(data))])
        self._bytes = data
        return self.cut(item)

    def _read(self, item: Item) -> bytes:
        return self._opener.data(self._entry) if self._bytes is None else self._bytes

    def _frames(self, item: Item) -> Iterator[tuple[int, np.ndarray]]:
        with self._opener.film(self._entry) as path:
            yield from sample_frames(path, self._settings.frames)

    def _save(self, output: str, data: bytes) -> None:
        member = tarfile.TarInfo(output)  # of no time and nobody: the same bytes whenever and wherever they are written
        member.size = len(data)
        self.tar.addfile(member, io.BytesIO(data))


class PrepareShards:
    """Does the shards of a job of `emotiw prepare`.

    Raises:
        ModelError: what the detector needs is missing.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._cutter = _Cutter(job)

    def do(self, shard: Shard, folder: Folder, at: Callable[[int], None]) -> Record:
        """Write the parts of a shard."""
        names = (f"{shard.name}.{self._job.kind}", f"{shard.name}.tar")
        tally = Tally()
        with ExitStack() as stack:
            rows_path, tar_path = (stack.enter_context(folder.new(name)) for name in names)
            faces = tarfile.open(tar_path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - closed by `with`
            with writer(rows_path, self._job.kind, None) as file, faces as tar:
                self._cutter.tar = tar
                places = self._cutter.fetched(shard, at)
                for place, (entry, data) in enumerate(places):
                    for row in self._rows(entry, data, f"{shard.number:08d}", place, tally):
                        file.add(row)
            return record_of(shard, tally, dict(zip(names, (rows_path, tar_path), strict=True)))

    def _rows(self, entry: Entry, data: bytes | ImageError | None, folder: str, place: int, tally: Tally) -> list[Row]:
        stem = _PLAIN.sub("-", Path(entry.name or entry.path).stem)[:_LONGEST]
        path = printable(entry.path)
        item = Item(
            place, entry.name, path, entry.label, entry.split, f"{folder}/{place:06d}-{stem}", entry.state, entry.subject
        )
        outcome = self._cutter.outcome(entry, data, item)
        rows = outcome.rows
        tally.notes.update(outcome.notes)
        # The row that says where a film breaks off is of no frame.
        frames = {row.get("frame") for row in rows} - {None, ""}
        tally.images += len(frames) or 1
        tally.rows += len(rows)
        tally.faces += sum(row["status"] in (OK, CENTRE) for row in rows)
        for row in rows:
            if row["status"].startswith(UNREADABLE):
                tally.fail(path, row["status"].removeprefix(UNREADABLE))
        return rows
