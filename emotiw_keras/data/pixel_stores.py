"""Where the pixels of a set are: in memory, in a file, or in their source, to be decoded whenever they are asked for."""

from __future__ import annotations

import copy
import math
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import IO

import numpy as np

from emotiw_keras.data.columns import pick
from emotiw_keras.data.images import ImageError
from emotiw_keras.data.layouts.listing import Images
from emotiw_keras.data.packing import write_all
from emotiw_keras.data.resize import resize, to_grey
from emotiw_keras.errors import DataError

Shape = tuple[int, int, int]
"""(height, width, channels), channels 1 (grey) or 3 (RGB)."""
# Images above this many pixels are decoded one at a time: working space is several times their size.
_LARGE = 8_000_000


class PixelStore:
    """Images of one shape by index.

    Args:
        shape: (height, width, channels).
        readable: bool (images,).
        rows: where each image is in what holds them; in order if None.
    """

    in_memory = False
    """Whether `gather` only copies."""

    def __init__(self, shape: Shape, readable: np.ndarray, rows: np.ndarray | None = None) -> None:
        self.shape, self._readable = shape, readable
        self._rows = np.arange(len(readable)) if rows is None else rows

    @property
    def nbytes(self) -> int:
        """Bytes that all images take as uint8, in memory or not."""
        return len(self._rows) * math.prod(self.shape)

    def gather(self, indices: np.ndarray) -> np.ndarray:
        """uint8 (len(indices), height, width, channels) in that order; DataError for an unreadable image."""
        indices = np.asarray(indices, np.int64)
        bad = indices[~self._readable[indices]]
        if bad.size:
            raise DataError(f"image {int(bad[0])} of the data set is unreadable; take the indices of FaceSet.indices()")
        return self._gathered(indices)

    def _gathered(self, indices: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def select(self, rows: np.ndarray) -> PixelStore:
        """A store of some of the images, numbered anew from 0."""
        some = copy.copy(self)
        some._readable, some._rows = self._readable[rows], self._rows[rows]
        return some


class MemoryPixels(PixelStore):
    """All images as one uint8 array (images, height, width, channels); zeros where unreadable."""

    in_memory = True

    def __init__(self, array: np.ndarray, readable: np.ndarray) -> None:
        super().__init__(array.shape[1:], readable)
        self.array = array

    def put(self, index: int, image: np.ndarray) -> None:
        """Hold one image; from any thread."""
        self.array[index] = image

    def _gathered(self, indices: np.ndarray) -> np.ndarray:
        return self.array[indices]

    def select(self, rows: np.ndarray) -> PixelStore:
        """A store of some of the images, which holds no others."""
        return MemoryPixels(self.array[rows], self._readable[rows])


class PackedPixels(PixelStore):
    """Images one after the other in a file from `packing_file`, which no one else sees and which goes with the process."""

    def __init__(self, file: IO[bytes], shape: Shape, readable: np.ndarray) -> None:
        super().__init__(shape, readable)
        self._file = file

    def put(self, index: int, image: np.ndarray) -> None:
        """Write one image; from any thread."""
        write_all(self._file, int(self._rows[index]) * image.nbytes, np.ascontiguousarray(image))

    def _gathered(self, indices: np.ndarray) -> np.ndarray:
        batch = np.empty((len(indices), *self.shape), np.uint8)
        size = math.prod(self.shape)
        for image, row in zip(batch, self._rows[indices].tolist(), strict=True):
            data = os.pread(self._file.fileno(), size, row * size)
            if len(data) != size:
                raise DataError(f"the file of packed images is short: {len(data):,} of {size:,} bytes; is the disk well?")
            image[...] = np.frombuffer(data, np.uint8).reshape(self.shape)
        return batch


class StreamedPixels(PixelStore):
    """Images decoded from their source whenever asked for; memory holds one batch and the threads' work.

    Args:
        images: the source.
        rows: which of its images these are; all in order if None.
        shape: what each is brought to: grey or RGB first, then resized where the size differs.
        readable: bool (images,).
        sizes: (height, width, channels) of each in the source.
        workers: threads that decode.
    """

    def __init__(
        self,
        images: Images,
        rows: np.ndarray | None,
        shape: Shape,
        readable: np.ndarray,
        sizes: Sequence[Shape],
        workers: int,
    ) -> None:
        super().__init__(shape, readable, rows)
        self._images, self._sizes = images, sizes
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._large = threading.Lock()

    def select(self, rows: np.ndarray) -> PixelStore:
        """A store of some of the images."""
        some = super().select(rows)
        assert isinstance(some, StreamedPixels)
        some._sizes = pick(self._sizes, rows)
        return some

    @contextmanager
    def decoded(self, index: int) -> Iterator[np.ndarray]:
        """The image as it is in the source, uint8 (height, width, 1 or 3); a large one waits for the other large one."""
        height, width, _ = self._sizes[index]
        with self._large if height * width > _LARGE else nullcontext():
            yield self._images.image(int(self._rows[index]))

    def fit(self, image: np.ndarray) -> np.ndarray:
        """An image in the shape of this set."""
        height, width, channels = self.shape
        image = to_grey(image) if channels == 1 else image
        if image.shape[:2] != (height, width):
            image = resize(image, height, width)
        return np.broadcast_to(image, self.shape)

    def _gathered(self, indices: np.ndarray) -> np.ndarray:
        batch = np.empty((len(indices), *self.shape), np.uint8)

        def fill(position: int) -> None:
            try:
                with self.decoded(int(indices[position])) as image:
                    batch[position] = self.fit(image)
            except ImageError as error:
                raise DataError(
                    f"image {int(indices[position])} of the data set cannot be read: {error}; what is broken is left out when "
                    f"the set is looked through: has it changed since, or was that skipped with check = false?"
                ) from error

        list(self._threads.map(fill, range(len(indices))))
        return batch
