"""Which images of a set look alike at all: all pairs by their embeddings, in blocks, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

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
    straight, turned = np.ascontiguousarray(vectors[:, :even]), np.ascontiguousarray(vectors[:, even:])
    for top in range(0, len(vectors), _ROWS):
        firsts, seconds, flips, likeness = [], [], [], []
        for left in range(top, len(vectors), _COLUMNS):
            odd = turned[top : top + _ROWS] @ turned[left : left + _COLUMNS].T
            alike = np.abs(odd)
            alike += straight[top : top + _ROWS] @ straight[left : left + _COLUMNS].T
            row, column = _places(alike > LIKENESS)
            keep = column + left > row + top
            if part is not None:
                keep &= part[row + top] != part[column + left]
            row, column = row[keep], column[keep]
            firsts.append(row + top)
            seconds.append(column + left)
            flips.append(odd[row, column] < 0)
            likeness.append(alike[row, column])
        first, second, flip, value = (np.concatenate(each) for each in (firsts, seconds, flips, likeness))
        order = np.lexsort((second, -value, first))
        first, second, flip, value = first[order], second[order], flip[order], value[order]
        # the place of each pair among those of its first image
        place = np.arange(len(first)) - np.searchsorted(first, first)
        best = place < MOST
        yield Proposals(first[best], second[best], flip[best], value[best])


def _places(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of what is true in a mask, in which that is rare: eight entries are looked at in one."""
    flat = mask.reshape(-1)
    if len(flat) % 8:
        flat = np.concatenate([flat, np.zeros(-len(flat) % 8, bool)])
    words = np.flatnonzero(flat.view(np.uint64))
    places = (words[:, None] * 8 + np.arange(8)).reshape(-1)
    row, column = np.divmod(places[flat[places]], mask.shape[1])
    return row, column
