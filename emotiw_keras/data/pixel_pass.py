"""The one pass over the pixels of a set, which decides where they are from then on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

import numpy as np

from emotiw_keras.data import duplicates
from emotiw_keras.data.faceset import OK, Progress
from emotiw_keras.data.images import ImageError
from emotiw_keras.data.layouts.listing import Listing
from emotiw_keras.data.packing import packing_file
from emotiw_keras.data.pixel_stores import MemoryPixels, PackedPixels, PixelStore, StreamedPixels
from emotiw_keras.hardware import available_memory
from emotiw_keras.talk import Notice

_CHUNK = 64
# Decoding a small image takes less time than threads take to hand the interpreter to each other.
_SMALL = 128 * 128
HELD_BYTES = 128 << 20
"""What the pixels of a set may take in memory, so that memory does not grow with the data; FER-2013 takes 79 MiB. The file that
larger sets are packed into is read as fast, as long as the system has memory to spare for it."""


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
