"""The folder for what is made of the inputs: new or empty, outside of them, each file below its relative name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from emotiw_keras.data.archive import bounded, checked_name
from emotiw_keras.errors import FULL, OutputError, UsageError
from emotiw_keras.files import check_folder_place, local_path, real, writing
from emotiw_keras.locking import locked

LONGEST = 200
"""Bytes of a name, of the 255 that file systems take: before and behind it something is added."""


class NewFolder:
    """Gives paths that are not taken, in a folder that nothing else may write into until `close`.

    Args:
        folder: new or empty, so that nothing can be overwritten; it is made.
        inputs: names of what will be read; the folder must not lie in one of them, or its images would be read too.

    Raises:
        OutputError: the folder holds something, is being written into already, or cannot be written.
        UsageError: the folder is one of the inputs or lies in one.
    """

    def __init__(self, folder: str | os.PathLike[str], inputs: Sequence[str] = ()) -> None:
        self.path = local_path(folder)
        for name in inputs:
            if os.path.isdir(name) and real(self.path).is_relative_to(real(Path(name))):
                raise UsageError(f"{self.path} lies in the input {name}; choose a folder outside of it for what is written")
        if os.path.exists(self.path) and not self.path.is_dir():
            raise OutputError(f"{self.path} is a file; name a new folder")
        with ExitStack() as held:
            held.enter_context(locked(self.path, partial(_refuse, self.path)))
            check_folder_place(self.path)  # tries a file there, which another command would take for what it holds
            with writing(self.path):
                found = min(self.path.iterdir(), default=None)
            if found is not None:  # a hidden one too, such as a killed command leaves: which it is, its owner knows
                raise OutputError(f"{self.path} is not empty: it holds {found.name}; nothing is overwritten, name a new folder")
            self._held = held.pop_all()
        self._taken: set[str] = set()

    def close(self) -> None:
        """Let others write into the folder."""
        self._held.close()

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Around what writes here: after a full disk the same command does not go on, as the folder is no new one any more."""
        try:
            yield
        except OutputError as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in FULL:
                raise
            told = str(error).rpartition("; ")[0]
            raise OutputError(f"{told}; free some space, and remove {self.path} or name a new folder") from error.__cause__

    def place(self, name: str, suffix: str) -> Path:
        """A path that is not yet taken: the relative name and the suffix, with a number between where it is needed."""
        stem = _shortened(bounded(checked_name(name, self.path, windows=False)))
        candidate, count = stem + suffix, 1
        # Names that differ in case alone are one file on some systems.
        while candidate.lower() in self._taken:
            count += 1
            candidate = f"{stem}-{count}{suffix}"
        self._taken.add(candidate.lower())
        return self.path / candidate


def _refuse(folder: Path) -> None:
    raise OutputError(f"{folder} is being written into already; name another folder, for each command or option its own")


def _shortened(name: str) -> str:
    """The name with a hash in the place of the end of a part that leaves no room for a number and a suffix."""
    parts = []
    for part in name.split("/"):
        data = os.fsencode(part)
        if len(data) > LONGEST:
            part = f"{data[: LONGEST - 9].decode('utf-8', 'ignore')}-{hashlib.sha256(data).hexdigest()[:8]}"
        parts.append(part)
    return "/".join(parts)
