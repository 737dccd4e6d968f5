"""The folder for what is made of the inputs: new or empty, outside of them, each file below its relative name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from emotiw_keras.data.archive import checked_name
from emotiw_keras.errors import OutputError, UsageError
from emotiw_keras.files import writing


class NewFolder:
    """Gives paths that are not taken.

    Args:
        folder: new or empty, so that nothing can be overwritten; it is made.
        inputs: names of what will be read; the folder must not lie in one of them, or its images would be read too.

    Raises:
        OutputError: the folder holds something, or cannot be written.
        UsageError: the folder is one of the inputs or lies in one.
    """

    def __init__(self, folder: str | os.PathLike[str], inputs: Sequence[str] = ()) -> None:
        self.path = Path(folder)
        for name in inputs:
            if os.path.isdir(name) and self.path.resolve().is_relative_to(Path(name).resolve()):
                raise UsageError(f"{self.path} lies in the input {name}; choose a folder outside of it for what is written")
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            if any(self.path.iterdir()):
                raise OutputError(f"{self.path} is not empty; nothing is overwritten, name a new folder")
        self._taken: set[str] = set()

    def place(self, name: str, suffix: str) -> Path:
        """A path that is not yet taken: the relative name and the suffix, with a number between where it is needed."""
        stem = checked_name(name, self.path)
        candidate, count = stem + suffix, 1
        # Names that differ in case alone are one file on some systems.
        while candidate.lower() in self._taken:
            count += 1
            candidate = f"{stem}-{count}{suffix}"
        self._taken.add(candidate.lower())
        return self.path / candidate
