"""From what a user names (files, folders, globs, zips) to pictures; one that fails stops nothing."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emotiw_keras.data.archive import MEMBER_BYTES, is_picture, open_archive
from emotiw_keras.data.images import SUFFIXES, ImageError, decode_image
from emotiw_keras.errors import DataError


@dataclass(frozen=True)
class Picture:
    """One input.

    Attributes:
        path: as the user would name it; a zip's member as `archive.zip/name`.
        pixels: uint8 0..255, (height, width, 1) or (height, width, 3) RGB, upright; None where it cannot be read.
        error: why not, or None.
    """

    path: str
    pixels: np.ndarray | None
    error: str | None = None


def read_pictures(inputs: Sequence[str]) -> Iterator[Picture]:
    """Read every picture that the inputs name, in their order; folders and zips in the order of their names.

    Files named themselves are read whatever they are called; of a folder or a zip the files that are called like
    pictures.

    Args:
        inputs: paths of files, folders and zips, or glob patterns.

    Yields:
        One `Picture` for each; an input that is missing, empty or damaged is one with `error` set.
    """
    for name in inputs:
        if os.path.exists(name) or not glob.has_magic(name):
            yield from _read(name)
            continue
        matches = sorted(glob.glob(name, recursive=True))
        if not matches:
            yield Picture(name, None, "no file matches this pattern")
        for match in matches:
            yield from _read(match)


def _read(name: str) -> Iterator[Picture]:
    zipped = Path(name).suffix.lower() == ".zip" and os.path.isfile(name)
    if zipped or os.path.isdir(name):
        yield from _read_archive(name)
    else:
        yield _read_file(name)


def _read_file(name: str) -> Picture:
    try:
        if not os.path.isfile(name):
            return Picture(name, None, "not a file" if os.path.exists(name) else "no such file or folder")
        size = os.path.getsize(name)
        if size > MEMBER_BYTES:
            return Picture(name, None, f"{size:,} bytes, more than the {MEMBER_BYTES:,} allowed for one picture")
        with open(name, "rb") as file:
            data = file.read()
    except OSError as error:
        return Picture(name, None, f"cannot read: {error.strerror or error}")
    return _decode(name, data)


def _decode(name: str, data: bytes) -> Picture:
    try:
        return Picture(name, decode_image(data))
    except ImageError as error:
        return Picture(name, None, str(error))


def _read_archive(name: str) -> Iterator[Picture]:
    try:
        archive = open_archive(name)
    except DataError as error:
        yield Picture(name, None, str(error))
        return
    members = [member for member in archive.names if is_picture(member)]
    if not members:
        yield Picture(name, None, f"holds no pictures; looked for {' '.join(sorted(SUFFIXES))}")
    for member in members:
        path = os.path.join(name, member)
        try:
            data = archive.read(member)
        except ImageError as error:
            yield Picture(path, None, str(error))
        else:
            yield _decode(path, data)
