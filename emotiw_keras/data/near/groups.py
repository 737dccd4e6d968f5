"""Which images of a set, or of several, show one photograph; and what is said of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from emotiw_keras.data.layouts.drawn import is_generated
from emotiw_keras.data.layouts.listing import SPLITS
from emotiw_keras.data.near.pairs import NearPairs, near_pairs
from emotiw_keras.data.splits import group_ids
from emotiw_keras.talk import Notice

if TYPE_CHECKING:
    from emotiw_keras.data.faceset import FaceSet


@dataclass(frozen=True)
class NearTwins:
    """What a set's images have to do with each other.

    Attributes:
        threshold: correlation from which a pair counts.
        pairs: near duplicates by position; of equal images the first stands for all.
        photograph: int64 (images,), the same number for images that are equal or near duplicates, directly or in a chain.
    """

    threshold: float
    pairs: NearPairs
    photograph: np.ndarray

    def take(self, rows: np.ndarray) -> NearTwins:
        """Of some of the images, numbered anew from 0; pairs that lost one are left out, their `photograph` stays."""
        place = np.full(len(self.photograph), -1, np.int64)
        place[rows] = np.arange(len(rows))
        first, second = place[self.pairs.first], place[self.pairs.second]
        kept = (first >= 0) & (second >= 0)
        low, high = np.minimum(first, second)[kept], np.maximum(first, second)[kept]
        pairs = NearPairs(low, high, self.pairs.correlation[kept], self.pairs.mirrored[kept])
        return NearTwins(self.threshold, pairs, self.photograph[rows])


def find_twins(faces: FaceSet, threshold: float, say: Callable[[str], None] | None = None) -> NearTwins:
    """Find the near duplicates of a set; `say` takes a line before what takes long."""
    pairs = near_pairs([faces.pixels], [faces.pixel_hash], threshold, say=say)
    return NearTwins(threshold, pairs, _joined([faces.pixel_hash], [pairs]))


def photographs(sets: Mapping[str, FaceSet], say: Callable[[str], None] | None = None) -> tuple[dict[str, np.ndarray], int]:
    """Numbers of photographs that hold across sets, of those sets in which near duplicates were looked for; `say` as above.

    Returns:
        Set name -> int64 (images,), and how many pairs of near duplicates lie across two sets.
    """
    looked = {name: faces for name, faces in sets.items() if faces.near is not None}
    if not looked:
        return {}, 0
    hashes = [faces.pixel_hash for faces in looked.values()]
    starts = np.concatenate([[0], np.cumsum([len(each) for each in hashes])])
    pairs = []
    for start, faces in zip(starts, looked.values(), strict=False):
        assert faces.near is not None
        own = faces.near.pairs
        pairs.append(NearPairs(own.first + start, own.second + start, own.correlation, own.mirrored))
    between = 0
    if len(looked) > 1:
        threshold = min(faces.near.threshold for faces in looked.values() if faces.near is not None)
        pairs.append(near_pairs([faces.pixels for faces in looked.values()], hashes, threshold, across=True, say=say))
        between = len(pairs[-1])
    numbers = _joined(hashes, pairs)
    places = zip(looked, starts.tolist(), starts[1:].tolist(), strict=False)
    return {name: numbers[start:stop] for name, start, stop in places}, between


def _joined(hashes: Sequence[Sequence[str]], pairs: Sequence[NearPairs]) -> np.ndarray:
    together = [digest for each in hashes for digest in each]
    links = [(int(a), int(b)) for each in pairs for a, b in zip(each.first, each.second, strict=True)]
    return group_ids(together, [""] * len(together), links)


def alike(faces: FaceSet, ids: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of positions in `ids`, a chain for each photograph that several of these images show; none where they were not
    looked for."""
    if faces.near is None:
        return []
    photograph = faces.near.photograph[ids]
    order = np.argsort(photograph, kind="stable")
    same = photograph[order[1:]] == photograph[order[:-1]]
    return list(zip(order[:-1][same].tolist(), order[1:][same].tolist(), strict=True))


def stands_also(faces: FaceSet, these: str, others: str) -> np.ndarray:
    """bool (images,), images of split `these` whose photograph also stands in split `others`, equal ones included."""
    assert faces.near is not None
    there = np.unique(faces.near.photograph[faces.split == others])
    return (faces.split == these) & np.isin(faces.near.photograph, there)


def describe(faces: FaceSet, equal: Mapping[tuple[str, str], int]) -> list[str]:
    """Lines on near duplicates, for a person to read.

    Args:
        faces: the set.
        equal: (split, earlier split) -> images that stand there pixel for pixel, which are not counted again.
    """
    if faces.near is None:
        drawn = ", as every drawn face is another one" if is_generated(faces.source) else ""
        return [f"near duplicates: not looked for{drawn}"]
    pairs = faces.near.pairs
    if not len(pairs):
        return [f"near duplicates: none (aligned correlation from {faces.near.threshold:g})"]
    numbers, size = np.unique(faces.near.photograph[np.unique([pairs.first, pairs.second])], return_counts=True)
    mirrored = f", {int(pairs.mirrored.sum()):,} of them mirrored" if pairs.mirrored.any() else ""
    lines = [
        f"near duplicates: {len(pairs):,} pairs of different images show one photograph, cut, scaled or marked otherwise"
        f"{mirrored} (aligned correlation from {faces.near.threshold:g}); {len(numbers):,} photographs, of the largest "
        f"{int(size.max()):,} images"
    ]
    present = [name for name in SPLITS if (faces.split == name).any()]
    for i, later in enumerate(present):
        for earlier in present[:i]:
            count = int(stands_also(faces, later, earlier).sum()) - equal.get((later, earlier), 0)
            if count:
                lines.append(Notice(f"near duplicates: {count:,} more {later} images stand in {earlier} nearly the same"))
    return lines
