"""Arrays on their way from a file of names into a `Foreign`, counted against the limits."""

from __future__ import annotations

import numpy as np

from emotiw_keras.errors import ModelError
from emotiw_keras.formats.foreign import Limits
from emotiw_keras.formats.pickle_ops import shown
from emotiw_keras.formats.protobuf import checked_name


class Gathered:
    """`arrays` by name and what was `ignored`, with the reason.

    Their bytes are counted by `reserve`, views with all their numbers: one stretch of the file may stand for many arrays.
    """

    def __init__(self, where: str, limits: Limits) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self.ignored: dict[str, str] = {}
        self.where = where
        self._limits = limits
        self._bytes = 0

    def add(self, name: str, array: np.ndarray) -> None:
        """Take an array; ModelError if its name is taken or damaged, or the arrays are too many."""
        checked_name(name, self.where)
        if name in self.arrays:
            raise ModelError(f"{self.where}: two arrays would be named {name}; rename one of them and save it again")
        self._count()
        self.arrays[name] = array

    def reserve(self, size: int) -> None:
        """Count the bytes of an array before it is made; ModelError if it is too large together with those before it."""
        self._bytes += size
        if self._bytes > self._limits.total_bytes:
            raise ModelError(
                f"{self.where}: its arrays take more than the {self._limits.total_bytes:,} bytes allowed; expected weights"
            )

    def ignore(self, name: object, reason: str) -> None:
        """Say why something is not among the arrays."""
        self._count()
        self.ignored[shown(name)] = reason

    def _count(self) -> None:
        if len(self.arrays) + len(self.ignored) >= self._limits.arrays:
            raise ModelError(f"{self.where}: it holds more than the {self._limits.arrays:,} arrays and entries allowed")
