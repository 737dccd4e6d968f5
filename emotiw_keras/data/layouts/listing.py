"""What a reader of one layout hands over: names, class names and splits, and a way to get at the pixels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from emotiw_keras.data.archive import Archive
from emotiw_keras.data.images import ImageError, decode_image, read_header

# Enough for the header of nearly every picture; a file whose header lies deeper is read whole.
_HEAD_BYTES = 2**14

SPLITS = ("train", "val", "test")
SPLIT_NAMES: dict[str, str] = {
    "training": "train", "publictest": "val", "privatetest": "test",
    "train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test", "testing": "test",
}  # fmt: skip


class Pictures(Protocol):
    """The pictures of a listing by index; ImageError is about one picture, DataError about the whole source."""

    def shape(self, index: int) -> tuple[int, int, int]:
        """(height, width, channels) without decoding."""
        ...

    def image(self, index: int) -> np.ndarray:
        """uint8 (height, width, 1) grey or (height, width, 3) RGB."""
        ...


@dataclass
class Listing:
    """Every labelled picture of a source, one entry a picture; `split` is all "" where the source has none."""

    layout: str
    pictures: Pictures
    names: list[str]
    classes: list[str]
    split: list[str]
    subject: list[str]
    notes: list[str] = field(default_factory=list)
    reading: str = ""
    """How aligned faces were cut (`faces.alignment.READINGS`); "" for pictures of another kind."""

    def first_seen(self) -> dict[str, str]:
        """Each class name -> the first picture that carries it."""
        seen: dict[str, str] = {}
        for name, class_name in zip(self.names, self.classes, strict=True):
            seen.setdefault(class_name, name)
        return seen


class ArchivePictures:
    """Pictures that are files of a folder or a zip."""

    def __init__(self, archive: Archive, members: list[str]) -> None:
        self._archive = archive
        self._members = members

    def shape(self, index: int) -> tuple[int, int, int]:
        """(height, width, channels) from the header."""
        name = self._members[index]
        try:
            header = read_header(self._archive.read(name, _HEAD_BYTES))
        except ImageError:
            header = read_header(self._archive.read(name))
        return header.height, header.width, header.channels

    def image(self, index: int) -> np.ndarray:
        """uint8 (height, width, 1) grey or (height, width, 3) RGB."""
        return decode_image(self._archive.read(self._members[index]))


def and_more(names: list[str], shown: int = 5) -> str:
    """The first names of a list and how many follow."""
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest:,} more" if rest > 0 else "")
