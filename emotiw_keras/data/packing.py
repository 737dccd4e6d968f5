"""The file that holds what memory has no room for."""

from __future__ import annotations

import os
import tempfile
from typing import IO

import numpy as np

from emotiw_keras.weights.cache import cache_dir


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
    except (OSError, AttributeError):  # full or read-only, or a system without the call: the images are decoded again instead
        return None
    return file
