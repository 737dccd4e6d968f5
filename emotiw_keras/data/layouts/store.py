"""Where the pixels of a data set are: in memory as bytes, or decoded by a bounded pool when asked for (or packed: `packed`)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np

from emotiw_keras.data.columns import pick
from emotiw_keras.data.images import ImageError
from emotiw_keras.data.layouts.listing import Pictures
from emotiw_keras.data.resize import resize, to_grey
from emotiw_keras.errors import DataError

_CHUNK = 64
# Pictures above this many pixels are decoded one at a time: working space is several times their size.
_LARGE = 8_000_000


class PixelStore(Protocol):
    """Pictures of one shape by index."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels), channels 1 (grey) or 3 (RGB)."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes that all pictures take as uint8, in memory or not."""
        ...

    @property
    def in_memory(self) -> bool:
        """Whether `gather` only copies."""
        ...

    def gather(self, indices: np.ndarray) -> np.ndarray:
        """uint8 (len(indices), height, width, channels) in that order; DataError for an unreadable picture."""
        ...

    def select(self, rows: np.ndarray) -> PixelStore:
        """A store of some of the pictures, numbered anew from 0."""
        ...


class View:
    """Pictures of a source brought to one shape: grey or RGB first, then resized where the size differs."""

    def __init__(self, pictures: Pictures, rows: np.ndarray, shape: tuple[int, int, int]) -> None:
        self.pictures = pictures
        self.rows = rows
        self.shape = shape
        self._large = threading.Lock()

    def decode(self, index: int) -> np.ndarray:
        """The picture as it is in the source: uint8 (height, width, 1 or 3)."""
        return self.pictures.image(int(self.rows[index]))

    def fit(self, image: np.ndarray) -> np.ndarray:
        """The picture in the shape of this set."""
        height, width, channels = self.shape
        image = to_grey(image) if channels == 1 else image
        if image.shape[:2] != (height, width):
            image = resize(image, height, width)
        return np.broadcast_to(image, self.shape)

    @contextmanager
    def room_for(self, shape: tuple[int, int, int]) -> Iterator[None]:
        """Wait for the other large picture, if this one is large."""
        if shape[0] * shape[1] <= _LARGE:
            yield
        else:
            with self._large:
                yield


def check_readable(readable: np.ndarray, indices: np.ndarray) -> None:
    """DataError if one of the pictures is unreadable."""
    bad = indices[~readable[indices]]
    if bad.size:
        raise DataError(f"picture {int(bad[0])} of the data set is unreadable; take the indices of FaceSet.indices()")


class MemoryPixels:
    """All pictures as one uint8 array (pictures, height, width, channels); zeros where unreadable."""

    in_memory = True

    def __init__(self, array: np.ndarray, readable: np.ndarray) -> None:
        self.array = array
        self._readable = readable

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        _, height, width, channels = self.array.shape
        return height, width, channels

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return self.array.nbytes

    def gather(self, indices: np.ndarray) -> np.ndarray:
        """uint8 (len(indices), height, width, channels)."""
        indices = np.asarray(indices, np.int64)
        check_readable(self._readable, indices)
        return self.array[indices]

    def select(self, rows: np.ndarray) -> MemoryPixels:
        """A store of some of the pictures."""
        return MemoryPixels(self.array[rows], self._readable[rows])


class StreamedPixels:
    """Pictures decoded from their source whenever asked for; memory holds one batch and the threads' work."""

    in_memory = False

    def __init__(self, view: View, readable: np.ndarray, shapes: Sequence[tuple[int, int, int]], workers: int) -> None:
        self._view = view
        self._readable = readable
        self._shapes = shapes
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self._view.shape

    @property
    def nbytes(self) -> int:
        """Bytes that all pictures would take."""
        return len(self._readable) * int(np.prod(self.shape))

    def gather(self, indices: np.ndarray) -> np.ndarray:
        """uint8 (len(indices), height, width, channels); DataError if a file has changed since it was first read."""
        indices = np.asarray(indices, np.int64)
        check_readable(self._readable, indices)
        batch = np.empty((len(indices), *self.shape), np.uint8)

        def fill(position: int) -> None:
            index = int(indices[position])
            try:
                with self._view.room_for(self._shapes[index]):
                    batch[position] = self._view.fit(self._view.decode(index))
            except ImageError as error:
                raise DataError(f"picture {index} of the data set was readable and is no longer: {error}") from error

        list(self._pool.map(fill, range(len(indices))))
        return batch

    def select(self, rows: np.ndarray) -> StreamedPixels:
        """A store of some of the pictures."""
        view = View(self._view.pictures, self._view.rows[rows], self.shape)
        return StreamedPixels(view, self._readable[rows], pick(self._shapes, rows), self._workers)


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


def available_memory() -> int:
    """Bytes that can be taken now: what the system has left, or less where a control group sets a limit."""
    left = _system_memory()
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        numbers = [_number(path) for path in (limit, used)]
        if numbers[0] is not None and numbers[1] is not None:
            left = min(left, max(0, numbers[0] - numbers[1]))
    return left


def _system_memory() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # no /proc on this system: ask for the physical pages below
    if not hasattr(os, "sysconf"):
        return 2 << 30  # Windows tells neither in this way: what any machine that trains has to spare
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return None  # no such control group, or "max": no limit
