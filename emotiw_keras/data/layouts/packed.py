"""Pixels that memory has no room for, brought to their size once and packed into a file."""

from __future__ import annotations

import os
import tempfile
from typing import IO

import numpy as np

from emotiw_keras.data.layouts.store import check_readable
from emotiw_keras.errors import DataError
from emotiw_keras.weights.cache import cache_dir


class PackedPixels:
    """Pictures of one shape one after the other in a file that no one else sees, and that goes with the process.

    Args:
        file: of at least `len(readable)` pictures, from `packing_file`.
        shape: (height, width, channels).
        readable: bool (pictures,).
        rows: which picture of the file each one is; all in order if None.
    """

    in_memory = False

    def __init__(
        self, file: IO[bytes], shape: tuple[int, int, int], readable: np.ndarray, rows: np.ndarray | None = None
    ) -> None:
        self._file = file
        self._shape = shape
        self._readable = readable
        self._rows = np.arange(len(readable)) if rows is None else rows

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self._shape

    @property
    def nbytes(self) -> int:
        """Bytes that the pictures take in the file."""
        return len(self._rows) * int(np.prod(self._shape))

    def put(self, index: int, image: np.ndarray) -> None:
        """Write one picture, uint8 of `shape`; from any thread."""
        write_all(self._file, int(self._rows[index]) * image.nbytes, np.ascontiguousarray(image))

    def gather(self, indices: np.ndarray) -> np.ndarray:
        """uint8 (len(indices), height, width, channels); DataError if the file cannot be read."""
        indices = np.asarray(indices, np.int64)
        check_readable(self._readable, indices)
        batch = np.empty((len(indices), *self._shape), np.uint8)
        size = int(np.prod(self._shape))
        for image, row in zip(batch, self._rows[indices].tolist(), strict=True):
            data = os.pread(self._file.fileno(), size, row * size)
            if len(data) != size:
                raise DataError(f"the file of packed pictures is short: {len(data):,} of {size:,} bytes; is the disk well?")
            image[...] = np.frombuffer(data, np.uint8).reshape(self._shape)
        return batch

    def select(self, rows: np.ndarray) -> PackedPixels:
        """A store of some of the pictures, in the same file."""
        return PackedPixels(self._file, self._shape, self._readable[rows], self._rows[rows])


def write_all(file: IO[bytes], offset: int, image: np.ndarray) -> None:
    """Write every byte; one call may write fewer."""
    left = image.data.cast("B")
    while left:
        written = os.pwrite(file.fileno(), left, offset)
        left, offset = left[written:], offset + written


def packing_file(size: int) -> IO[bytes] | None:
    """A file of `size` bytes in the cache folder that has no name any more; None where the disk has no room for it."""
    try:
        cache_dir().mkdir(parents=True, exist_ok=True)
        file: IO[bytes] = tempfile.TemporaryFile(dir=cache_dir())  # noqa: SIM115 - the caller's
        # The room is taken now, so that no write fails halfway.
        os.posix_fallocate(file.fileno(), 0, max(1, size))
    except (OSError, AttributeError):  # full or read-only, or a system without the call: the pictures are decoded again instead
        return None
    return file
