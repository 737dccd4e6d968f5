"""Which images of a set look alike at all: all pairs by their embeddings, in blocks, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from emotiw_keras.hardware import processor_threads

LIKENESS = 0.55
"""Two images are proposed from this product of their embeddings on (`benchmarks/near_duplicates.py` shows what it finds)."""
MOST = 16
"""Of all that follow an image in the set so many are proposed at most, the most alike: a burst of n images stays one group,
as each is proposed with a later one, and does not cost n * n alignments."""
_ROWS, _COLUMNS = 512, 1024  # of a block: its likenesses stay in the processor's cache


@dataclass(frozen=True)
class Proposals:
    """Pairs of images: first < second, int64 (pairs,); mirrored bool (pairs,); likeness float32 (pairs,), -1..1."""

    first: np.ndarray
    second: np.ndarray
    mirrored: np.ndarray
    likeness: np.ndarray

    def at(self, chosen: np.ndarray) -> Proposals:
        """Some of the pairs."""
        return Proposals(self.first[chosen], self.second[chosen], self.mirrored[chosen], self.likeness[chosen])


def propose(vectors: np.ndarray, even: int, part: np.ndarray | None = None) -> Iterator[Proposals]:
    """Go over all pairs.

    Args:
        vectors: float32 (images, dimensions) from `embed`.
        even: dimensions that mirroring leaves alone; they stand first.
        part: int (images,), the part of each image: only pairs across parts are proposed.

    Yields:
        The pairs of 512 first images at a time, by first image.
    """
    from threadpoolctl import threadpool_limits  # the small distribution, which imports this for `summary`, does without

    straight, turned = np.ascontiguousarray(vectors[:, :even]), np.ascontiguousarray(vectors[:, even:])
    workers = processor_threads()
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(vectors), workers * _ROWS):
            tops = range(start, min(start + workers * _ROWS, len(vectors)), _ROWS)
            with threadpool_limits(1):  # each thread multiplies by itself: the products are small
                found = list(pool.map(lambda top: _of_block(straight, turned, part, top), tops))
            yield from found


def _of_block(straight: np.ndarray, turned: np.ndarray, part: np.ndarray | None, top: int) -> Proposals:
    """The pairs of the first images from `top` on. Once `MOST` are known of an image, only what is more alike than the
    least of them is looked at: in a large set many pass `LIKENESS`."""
    rows = slice(top, top + _ROWS)
    floor = np.full((len(straight[rows]), 1), LIKENESS, np.float32)
    blocks, waiting = [], 0
    for left in range(top, len(straight), _COLUMNS):
        odd = turned[rows] @ turned[left : left + _COLUMNS].T
        alike = np.abs(odd)
        alike += straight[rows] @ straight[left : left + _COLUMNS].T
        row, column = _places(alike > floor)
        keep = column + left > row + top
        if part is not None:
            keep &= part[row + top] != part[column + left]
        row, column = row[keep], column[keep]
        blocks.append(Proposals(row + top, column + left, odd[row, column] < 0, alike[row, column]))
        waiting += len(row)
        if waiting > 4 * _ROWS:
            best = _best(blocks)
            last = np.flatnonzero(np.diff(best.first, append=-1))  # of each image, the least alike
            full = last[last - np.searchsorted(best.first, best.first[last]) == MOST - 1]
            floor[best.first[full] - top, 0] = best.likeness[full]
            blocks, waiting = [best], 0
    return _best(blocks)


def _best(blocks: list[Proposals]) -> Proposals:
    """The `MOST` most alike of each first image, the most alike first."""
    fields = ("first", "second", "mirrored", "likeness")
    pairs = Proposals(*(np.concatenate([getattr(block, name) for block in blocks]) for name in fields))
    pairs = pairs.at(np.lexsort((pairs.second, -pairs.likeness, pairs.first)))
    place = np.arange(len(pairs.first)) - np.searchsorted(pairs.first, pairs.first)
    return pairs.at(place < MOST)


def _places(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of what is true in a mask, in which that is rare: eight entries are looked at in one."""
    flat = mask.reshape(-1)
    if len(flat) % 8:
        flat = np.concatenate([flat, np.zeros(-len(flat) % 8, bool)])
    words = np.flatnonzero(flat.view(np.uint64))
    places = (words[:, None] * 8 + np.arange(8)).reshape(-1)
    row, column = np.divmod(places[flat[places]], mask.shape[1])
    return row, column
