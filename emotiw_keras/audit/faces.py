"""The test faces of FER-2013 with all that an audit asks about them: labels, leaks, ten people's votes, worse pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from emotiw_keras.data.layouts.listing import SPLITS
from emotiw_keras.data.load import load_faces
from emotiw_keras.data.near.groups import stands_also
from emotiw_keras.data.near.threshold import THRESHOLD
from emotiw_keras.data.splits import stratified
from emotiw_keras.data.votes import VOTED, agreed, labels_of
from emotiw_keras.errors import DataError
from emotiw_keras.evaluation.conditions import CONDITIONS as SPOILT
from emotiw_keras.labels import LABEL_SETS

LABELS = LABEL_SETS["basic7"].labels
SIDE = 48
_WORSE = {each.name: each for each in SPOILT if each.name in ("noise", "blur", "small")}
CONDITIONS = {name: each.words for name, each in _WORSE.items()}
"""What is done to the faces to see whether an answer survives it: name -> words."""


@dataclass(frozen=True)
class AuditFaces:
    """The test split (PrivateTest) of FER-2013.

    Attributes:
        source: the path as given.
        pixels: uint8 (n, 48, 48).
        truth: int (n,), FER-2013's own label, a position in `LABELS`.
        twin: bool (n,), an equal picture stands in the train or val split.
        near: bool (n,), the same photograph stands there nearly the same, or equal; None where that was not looked for.
        votes: int (n, 10), of `data.votes.VOTED`, unknown, no face; None where none were given.
        hashes: split ("train", "val", "test") -> identities of its pictures, all of them.
        limited: whether these are only some of the split.
        report: how the set was read, in lines.
    """

    source: str
    pixels: np.ndarray
    truth: np.ndarray
    twin: np.ndarray
    near: np.ndarray | None
    votes: np.ndarray | None
    hashes: Mapping[str, frozenset[str]]
    limited: bool
    report: tuple[str, ...]

    @property
    def majority(self) -> np.ndarray | None:
        """int (n,), the class of most of the ten votes, a position in `VOTED`; -1 where none has a majority."""
        if self.votes is None:
            return None
        shares = labels_of(self.votes, "majority")
        return np.where(shares.any(axis=1), shares.argmax(axis=1), -1)

    @property
    def agreed(self) -> np.ndarray | None:
        """bool (n,), at least 8 of ten say one of the eight expressions."""
        return None if self.votes is None else agreed(self.votes)

    def under(self, condition: str) -> np.ndarray:
        """The faces under one of `CONDITIONS`: uint8 (n, 48, 48)."""
        return _WORSE[condition].of(self.pixels[..., None])[..., 0]


def read_test(
    data: str | os.PathLike[str],
    votes: str | os.PathLike[str] | None = None,
    votes_rows: str | os.PathLike[str] | None = None,
    *,
    limit: int | None = None,
    near_duplicates: float = THRESHOLD,
    say: Callable[[str], None] | None = None,
) -> AuditFaces:
    """Read FER-2013 and take its test split.

    Args:
        data: FER-2013 in any layout that `load_faces` knows.
        votes, votes_rows, near_duplicates, say: as `load_faces` has them.
        limit: at most so many faces, each class in proportion.

    Raises:
        DataError: it cannot be read, is no set of 48 x 48 faces, or has no three splits.
    """
    faces = load_faces(
        data, name="FER-2013", labels=LABELS, grey=True, votes=votes, votes_rows=votes_rows,
        near_duplicates=near_duplicates, say=say,
    )  # fmt: skip
    if faces.pixels.shape != (SIDE, SIDE, 1) or set(faces.splits) != set(SPLITS):
        shape, there = " x ".join(map(str, faces.pixels.shape[:2])), ", ".join(faces.splits)
        raise DataError(
            f"{data} has faces of {shape} pixels and the splits {there}; expected FER-2013: 48 x 48, and train, val and test "
            "(Training, PublicTest, PrivateTest)"
        )
    chosen = faces.indices("test")
    if limit is not None:
        chosen = stratified(chosen, faces.label[chosen], limit)
    hashes = {name: frozenset(faces.pixel_hash[i] for i in faces.indices(name)) for name in SPLITS}
    known = hashes["train"] | hashes["val"]
    twin = np.array([faces.pixel_hash[i] in known for i in chosen], bool)
    near = None
    if faces.near is not None:
        near = (stands_also(faces, "test", "train") | stands_also(faces, "test", "val"))[chosen]
    return AuditFaces(
        os.fspath(data), faces.pixels.gather(chosen)[..., 0], faces.label[chosen], twin, near,
        None if faces.votes is None else faces.votes[chosen], hashes, limit is not None, tuple(faces.report),
    )  # fmt: skip


assert set(LABELS) < set(VOTED)
