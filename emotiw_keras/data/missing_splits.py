"""Train, val and test where a source does not say which images they are: cut by shares, or into folds."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from emotiw_keras.data.columns import pick
from emotiw_keras.data.faceset import FaceSet
from emotiw_keras.data.near.groups import alike
from emotiw_keras.data.splits import Folds, assign_splits, fold_numbers, fold_splits, group_ids, stratified_folds
from emotiw_keras.errors import DataError, UsageError
from emotiw_keras.text import number_of

VAL_SHARE = 0.1
"""Of train, where nobody says another share."""


def check_val_share(val_share: float, lacks: str) -> None:
    """UsageError for a share that somebody asked for, and that is taken of nothing: `lacks` says why."""
    if val_share not in (0, VAL_SHARE):
        raise UsageError(f"val_share = {val_share:g}: {lacks}; it is the share of a train without a val, so leave it out")


class MissingSplits:
    """What a source leaves to be cut: all of it, val out of its train, or nothing (then it is false).

    Args:
        given: the split of each image as the source has it, "" where it has none.
        fractions, folds, val_share, seed: as `load_faces` has them.
        path: of the source, for messages.

    Raises:
        DataError: folds are asked of a source that has splits.
        UsageError: a share of train is asked of a source that is not cut so.
    """

    def __init__(
        self, given: Sequence[str], fractions: Sequence[float], folds: Folds | None, val_share: float, seed: int,
        path: str | os.PathLike[str],
    ) -> None:  # fmt: skip
        self._has_splits = any(given)
        self._lacks_val = bool(val_share) and "train" in given and "val" not in given
        self._fractions, self._folds, self._val_share, self._seed = fractions, folds, val_share, seed
        if folds is not None and self._has_splits:
            raise DataError(
                f"{path} has its own splits, and folds are cut from a source without: give one of its folders, such as that "
                "of train, or put the class folders of all into one folder"
            )
        if not self._lacks_val:
            missing = "" if "val" in given else "no train" if self._has_splits else "no splits"
            check_val_share(val_share, f"{path} has {missing or 'its own val'}")

    def __bool__(self) -> bool:
        return self._lacks_val or not self._has_splits

    def fill(self, faces: FaceSet) -> str:
        """Set the splits of the usable images that are to be cut; what was done, in words."""
        usable = faces.label >= 0
        ids = np.flatnonzero(usable & (faces.split == "train") if self._has_splits else usable)
        if self._folds is not None:
            return self._fill_folds(faces, ids, self._folds)
        shares = (1 - self._val_share, self._val_share, 0.0) if self._has_splits else self._fractions
        faces.split[ids] = assign_splits(faces.label[ids], _groups(faces, ids), shares, self._seed)
        told = f"no splits in the source: cut {' / '.join(f'{share:.0%}' for share in shares)} into train, val, test"
        if self._has_splits:
            told = f"no val in the source: {self._val_share:.0%} of train are val (val_share)"
        persons = len(set(pick(faces.subject, ids)) - {""})
        together = f"duplicates and {number_of(persons, 'persons')}" if persons else "duplicates"
        return f"{told}, stratified, seed {self._seed}, {together} kept together"

    def _fill_folds(self, faces: FaceSet, ids: np.ndarray, folds: Folds) -> str:
        number, what = _fold_of(faces, ids, folds.count, self._seed)
        faces.split[ids] = fold_splits(number, folds)
        test = f"{folds.test} is test, " if folds.held_out else ""
        training = ", ".join(map(str, folds.training))
        return (
            f"no splits in the source: {what} in {folds.count} folds, seed {self._seed}: {test}{folds.val} is val, "
            f"{training} train"
        )


def _groups(faces: FaceSet, ids: np.ndarray) -> np.ndarray:
    """The group of each of some images: one for a person and for what is equal or nearly so."""
    return group_ids(pick(faces.pixel_hash, ids), pick(faces.subject, ids), alike(faces, ids))


def _fold_of(faces: FaceSet, ids: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, str]:
    """The fold of each of some images, by person where all are known, and what was cut, in words."""
    who = pick(faces.subject, ids)
    if all(who):
        return fold_numbers(who, count, seed), number_of(len(set(who)), "persons")
    persons = len(set(who) - {""})
    together = f"persons ({persons:,} are known), duplicates" if persons else "duplicates"
    what = f"{number_of(len(ids), 'images')}, {together} and near duplicates kept together,"
    return stratified_folds(faces.label[ids], _groups(faces, ids), count, seed), what
