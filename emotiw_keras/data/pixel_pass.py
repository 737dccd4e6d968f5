"""The pixels of a set: the one pass over them, and where they are from then on: in memory, in a file, or in their source."""

from __future__ import annotations

import copy
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import IO

import numpy as np

from emotiw_keras.data import duplicates
from emotiw_keras.data.columns import pick
from emotiw_keras.data.faceset import OK, Progress
from emotiw_keras.data.images import ImageError
from emotiw_keras.data.layouts.listing import Images, Listing
from emotiw_keras.data.packing import packing_file, write_all
from emotiw_keras.data.resize import resize, to_grey
from emotiw_keras.errors import DataError
from emotiw_keras.hardware import available_memory
from emotiw_keras.talk import Notice

Shape = tuple[int, int, int]
"""(height, width, channels), channels 1 (grey) or 3 (RGB)."""
_CHUNK = 64
# Decoding a small image takes less time than threads take to hand the interpreter to each other.
_SMALL = 128 * 128
# Images above this many pixels are decoded one at a time: working space is several times their size.
_LARGE = 8_000_000
HELD_BYTES = 128 << 20
"""What the pixels of a set may take in memory, so that memory does not grow with the data; FER-2013 takes 79 MiB. The file that
larger sets are packed into is read as fast, as long as the system has memory to spare for it."""


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
                told = f"image {int(indices[position])} of the data set was readable and is no longer: {error}"
                raise DataError(told) from error

        list(self._threads.map(fill, range(len(indices))))
        return batch


@dataclass
class Seen:
    """What the one pass over the pixels found out about each image."""

    status: list[str]
    digest: list[str]
    constant: np.ndarray


def read_pixels(
    listing: Listing,
    rows: np.ndarray,
    grey: bool,
    size: int,
    budget: int | None,
    threads: int,
    progress: Progress | None,
    seconds: float | None,
) -> tuple[PixelStore, Seen]:
    """Go over the images of a listing once: their sizes, their identities, and where their pixels are from now on.

    Args:
        listing: the images; a note is added to it where they are not held in memory, or not looked at.
        rows: those that are wanted, in the order of the listing.
        grey, size, budget, threads, progress, seconds: as `load_faces` has them (`memory_budget`, `workers`).
    """
    if listing.index is not None:
        rows = listing.index[rows]
    count = len(rows)
    started = time.monotonic()
    shapes: list[tuple[int, int, int]] = [(0, 0, 0)] * count
    seen = Seen([OK] * count, [""] * count, np.zeros(count, bool))

    def late(share: float) -> bool:
        return seconds is not None and time.monotonic() - started > share * seconds

    def measure(i: int) -> None:
        if late(0.5):
            return
        try:
            shapes[i] = listing.images.shape(int(rows[i]))
        except ImageError as error:
            seen.status[i] = str(error)

    run_chunks(measure, range(count), threads)
    sizes = {shape[:2] for shape, status in zip(shapes, seen.status, strict=True) if status == OK and shape[0]}
    same = len(sizes) == 1 and math.prod(next(iter(sizes))) <= size * size
    height, width = sizes.pop() if same else (size, size)
    readable = np.zeros(count, bool)
    decoders = 1 if max((h * w for h, w, _ in shapes), default=0) <= _SMALL else threads
    streamed = StreamedPixels(listing.images, rows, (height, width, 1 if grey else 3), readable, shapes, decoders)
    allowed = min(HELD_BYTES, available_memory() // 2) if budget is None else budget
    needed = streamed.nbytes
    file = None if needed <= allowed or seconds is not None else packing_file(needed)
    if file is None and budget is None and seconds is None:  # without room on the disk memory holds what it can
        allowed = available_memory() // 2
    held: MemoryPixels | PackedPixels | None = None
    if file is not None:
        held = PackedPixels(file, streamed.shape, readable)
    elif needed <= allowed:
        held = MemoryPixels(np.zeros((count, *streamed.shape), np.uint8), readable)
    if needed > allowed and seconds is None:
        told = f"{needed / 2**30:,.2f} GiB of pixels are more than the {allowed / 2**30:,.2f} GiB of memory allowed"
        how = "packed once into a temporary file" if file is not None else "decoded in each epoch, as the disk is full too"
        listing.notes.append(Notice(f"{told}, so they are {how}"))

    def decode(i: int) -> None:
        if late(1):
            return
        try:
            with streamed.decoded(i) as image:
                seen.digest[i] = duplicates.pixel_hash(image)
                seen.constant[i] = bool((image == image[0, 0]).all())
                if held is not None:
                    held.put(i, streamed.fit(image))
        except ImageError as error:
            seen.status[i] = str(error)

    run_chunks(decode, [i for i in range(count) if seen.status[i] == OK], decoders, progress)
    readable[:] = [status == OK for status in seen.status]
    unseen = sum(not digest and status == OK for digest, status in zip(seen.digest, seen.status, strict=True))
    if unseen:
        known = f"looked at {count - unseen:,} of {count:,} images, the others taken on trust"
        listing.notes.append(Notice(f"{known}: no word on duplicates and broken files among them"))
        held = None
    return held or streamed, seen


def run_chunks(
    work: Callable[[int], None],
    items: Sequence[int],
    workers: int,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Call `work` on every item from a pool of threads; the first exception stops the rest and is raised."""

    def run(chunk: Sequence[int]) -> int:
        for item in chunk:
            work(item)
        return len(chunk)

    done = 0
    with ThreadPoolExecutor(workers) as pool:
        chunks = [pool.submit(run, items[start : start + _CHUNK]) for start in range(0, len(items), _CHUNK)]
        try:
            # not `wait` for the first of all that are left: it looks at each of them every time
            for chunk in as_completed(chunks):
                done += chunk.result()
                if progress is not None:
                    progress(done, len(items))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
