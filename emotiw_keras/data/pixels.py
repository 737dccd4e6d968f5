"""The one pass over the pixels of a set: sizes, identities, what cannot be read, and where the pixels are held."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from emotiw_keras.data import duplicates
from emotiw_keras.data.images import ImageError
from emotiw_keras.data.layouts.listing import Listing
from emotiw_keras.data.layouts.packed import PackedPixels, packing_file
from emotiw_keras.data.layouts.store import (
    MemoryPixels,
    PixelStore,
    StreamedPixels,
    View,
    available_memory,
    run_chunks,
)
from emotiw_keras.data.sets import OK, Progress

# Decoding a small picture takes less time than threads take to hand the interpreter to each other.
_SMALL = 128 * 128
HELD_BYTES = 128 << 20
"""What the pixels of a set may take in memory, so that memory does not grow with the data; FER-2013 takes 79 MiB. The file that
larger sets are packed into is read as fast, as long as the system has memory to spare for it."""


@dataclass
class Seen:
    """What the one pass over the pixels found out about each picture."""

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
    """Go over the pictures of a listing once: their sizes, their identities, and where their pixels are from now on.

    Args:
        listing: the pictures; a note is added to it where they are not held in memory, or not looked at.
        rows: those that are wanted.
        grey, size, budget, threads, progress, seconds: as `read_faces` has them (`memory_budget`, `workers`).
    """
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
            shapes[i] = listing.pictures.shape(int(rows[i]))
        except ImageError as error:
            seen.status[i] = str(error)

    run_chunks(measure, range(count), threads)
    sizes = {shape[:2] for shape, status in zip(shapes, seen.status, strict=True) if status == OK and shape[0]}
    same = len(sizes) == 1 and math.prod(next(iter(sizes))) <= size * size
    height, width = sizes.pop() if same else (size, size)
    view = View(listing.pictures, rows, (height, width, 1 if grey else 3))
    allowed = min(HELD_BYTES, available_memory() // 2) if budget is None else budget
    needed = count * int(np.prod(view.shape))
    file = None if needed <= allowed or seconds is not None else packing_file(needed)
    if file is None and budget is None and seconds is None:  # without room on the disk memory holds what it can
        allowed = available_memory() // 2
    array = np.zeros((count, *view.shape), np.uint8) if file is None and needed <= allowed else None
    readable = np.zeros(count, bool)
    packed = None if file is None else PackedPixels(file, view.shape, readable)
    if array is None and seconds is None:
        told = f"{needed / 2**30:,.2f} GiB of pixels are more than the {allowed / 2**30:,.2f} GiB of memory allowed"
        how = "packed once into a temporary file" if packed is not None else "decoded in each epoch, as the disk is full too"
        listing.notes.append(f"{told}, so they are {how}")

    def decode(i: int) -> None:
        if late(1):
            return
        try:
            with view.room_for(shapes[i]):
                image = view.decode(i)
                seen.digest[i] = duplicates.pixel_hash(image)
                seen.constant[i] = bool((image == image[0, 0]).all())
                if array is not None:
                    array[i] = view.fit(image)
                elif packed is not None:
                    packed.put(i, view.fit(image))
        except ImageError as error:
            seen.status[i] = str(error)

    decoders = 1 if max((h * w for h, w, _ in shapes), default=0) <= _SMALL else threads
    run_chunks(decode, [i for i in range(count) if seen.status[i] == OK], decoders, progress)
    readable[:] = [status == OK for status in seen.status]
    unseen = sum(not digest and status == OK for digest, status in zip(seen.digest, seen.status, strict=True))
    if unseen:
        known = f"{count - unseen:,} of {count:,} pictures"
        listing.notes.append(f"looked at {known}, the others taken on trust: no word on duplicates and broken files among them")
        return StreamedPixels(view, readable, shapes, decoders), seen
    if array is not None:
        return MemoryPixels(array, readable), seen
    if packed is not None:
        return packed, seen
    return StreamedPixels(view, readable, shapes, decoders), seen
