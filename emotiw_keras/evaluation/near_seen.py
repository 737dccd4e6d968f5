"""Which images of a split a run has seen nearly the same: cut, shifted, mirrored or marked otherwise."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from emotiw_keras.data.faceset import FaceSet


@dataclass(frozen=True)
class NearSeen:
    """Near duplicates between the images of a split and those that a run was given.

    Attributes:
        near: bool (n,), images of the split whose photograph the run was given nearly the same, without equal ones.
        pairs: int (pairs, 2), positions in the set: an image of the split, and one that the run was given; best first.
        correlation: float32 (pairs,), of the aligned pixels.
        there: images that the run was given and that the source holds.
        given: images that the run was given.
    """

    near: np.ndarray
    pairs: np.ndarray
    correlation: np.ndarray
    there: int
    given: int

    @property
    def caution(self) -> str | None:
        """What limits the figure, if anything does."""
        if self.there == self.given:
            return None
        return (
            f"Near duplicates were looked for among {self.there:,} of the {self.given:,} different images that the run was "
            "given; the others are not among the images that were read here."
        )


def least_covered(parts: Sequence[NearSeen]) -> NearSeen:
    """The one of which most of what its run was given is not in the data: what it says to limit it limits them all."""
    return max(parts, key=lambda each: each.given - each.there)


def near_seen(faces: FaceSet, indices: np.ndarray, leaked: Collection[str]) -> NearSeen | None:
    """Compare a split with what a run was given, as far as the same source holds it.

    Args:
        faces: the set.
        indices: int (n,), the images of the split.
        leaked: pixel hashes of what the run was given to train or to select on.

    Returns:
        None where near duplicates were not looked for, or nothing that the run was given is in the set.
    """
    if faces.near is None:
        return None
    seen = np.array([digest in leaked for digest in faces.pixel_hash], bool)
    if leaked and not seen.any():
        return None
    photograph = faces.near.photograph
    near = np.isin(photograph[indices], np.unique(photograph[seen])) & ~seen[indices]
    asked = np.zeros(len(seen), bool)
    asked[indices[near]] = True
    first_of: dict[str, int] = {}
    firsts = np.array([first_of.setdefault(digest or str(i), i) for i, digest in enumerate(faces.pixel_hash)], np.int64)
    # a pair names the first of equal images, which may stand in another split than the one that was asked for
    asked_of = {int(firsts[i]): int(i) for i in np.flatnonzero(asked)[::-1]}
    found = []
    pairs = faces.near.pairs
    rows = zip(pairs.first.tolist(), pairs.second.tolist(), pairs.correlation.tolist(), strict=True)
    for one, other, correlation in rows:
        for mine, theirs in ((one, other), (other, one)):
            if mine in asked_of and seen[theirs]:
                found.append((correlation, asked_of[mine], theirs))
    found.sort(key=lambda each: (-each[0], each[1:]))
    there = len({digest for digest, known in zip(faces.pixel_hash, seen, strict=True) if known})
    return NearSeen(
        near,
        np.array([each[1:] for each in found], np.int64).reshape(-1, 2),
        np.array([each[0] for each in found], np.float32),
        there,
        len(leaked),
    )
