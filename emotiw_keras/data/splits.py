"""Cutting a data set into train, val and test: stratified by label, seeded, nobody and nothing on two sides."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from emotiw_keras.arguments import is_number, items_of, whole_number
from emotiw_keras.data.layouts.listing import SPLITS
from emotiw_keras.errors import DataError, UsageError
from emotiw_keras.text import briefly

NOBODY = "none"
"""As a pattern for persons: nobody is known, whatever names of folders and files look like."""


@dataclass(frozen=True)
class Folds:
    """A set cut into `count` folds: `test` is test, the one after it val; of the others those `train` steps after `test` train,
    from 2 on (all if empty). With `held_out` false nothing is test: `test` is val, and all others train."""

    count: int
    test: int
    train: tuple[int, ...] = ()
    held_out: bool = True

    @property
    def val(self) -> int:
        """The fold that is val."""
        return (self.test + 1) % self.count if self.held_out else self.test

    @property
    def training(self) -> tuple[int, ...]:
        """The folds that train."""
        steps = self.train or range(2 if self.held_out else 1, self.count)
        return tuple((self.test + step) % self.count for step in steps)


def check_fractions(fractions: Sequence[float]) -> tuple[float, float, float]:
    """Three shares for train, val and test, none negative, train above zero, their sum 1; UsageError otherwise."""
    given = items_of(fractions)
    shares = len(given) == 3 and all(is_number(f) and 0 <= f <= 1 for f in given) and abs(sum(given) - 1) < 1e-6
    if not shares or given[0] == 0:
        raise UsageError(f"fractions = {briefly(fractions)}: expected three shares for train, val and test that sum to 1")
    return float(given[0]), float(given[1]), float(given[2])


def subjects(names: Sequence[str], pattern: str) -> list[str]:
    """The person each file name shows.

    Args:
        names: paths; the pattern is searched in what follows the last "/", or in the whole path if it holds a "/" itself.
        pattern: a regular expression; the person is its group 1, or the whole match where it has no group. "none" is nobody.

    Returns:
        One name for each path, "" where the pattern does not match.

    Raises:
        UsageError: not a regular expression.
        DataError: it matches none of the names.

    Example:
        >>> subjects(["angry/Al_Gore_0002.jpg", "sad/Al_Gore_0007.jpg"], r"^(.*)_[0-9]+[.]jpg$")
        ['Al_Gore', 'Al_Gore']
        >>> subjects(["angry/anna/1.jpg", "sad/ben/1.jpg"], "/([^/]+)/[^/]+$")
        ['anna', 'ben']
    """
    if pattern == NOBODY:
        return [""] * len(names)
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"subject_pattern {pattern!r} is no regular expression: {error}") from error
    matches = [expression.search(name if "/" in pattern else name.rpartition("/")[2]) for name in names]
    if not any(matches):
        raise DataError(f"subject_pattern {pattern!r} matches none of {len(names):,} file names, such as {names[0]!r}")
    group = 1 if expression.groups else 0
    return [(match[group] or "") if match else "" for match in matches]


def group_ids(pixel_hash: Sequence[str], subject: Sequence[str], links: Iterable[tuple[int, int]] = ()) -> np.ndarray:
    """Groups that may not be torn apart: images linked by equal pixels, the same person or `links`, directly or in a chain.

    Args:
        pixel_hash: one hash an image.
        subject: one person an image, "" if unknown.
        links: pairs of positions that belong together.

    Returns:
        int64 (images,): a group number for each, counted in order of first appearance.
    """
    parent = list(range(len(pixel_hash)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[tuple[str, str], int] = {}
    for i, (digest, person) in enumerate(zip(pixel_hash, subject, strict=True)):
        for key in (("pixels", digest), ("person", person)):
            if key[1]:
                other = root(first.setdefault(key, i))
                mine = root(i)
                parent[max(mine, other)] = min(mine, other)
    for one, other in links:
        mine, other = root(one), root(other)
        parent[max(mine, other)] = min(mine, other)
    numbers: dict[int, int] = {}
    return np.array([numbers.setdefault(root(i), len(numbers)) for i in range(len(parent))], np.int64)


def assign_splits(
    label: np.ndarray, group: np.ndarray, fractions: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 0
) -> np.ndarray:
    """Give every group to train, val or test so that each label is shared out by `fractions`.

    Iterative stratification (Sechidis et al. 2011) over groups: the label with the fewest images left first, its
    largest group first, to the split where the squares of all deviations from the shares, each label's in proportion
    to its number, then sum to the least. The last groups of a label are kept for splits that have none of it yet, so a
    label of at least three groups of its own reaches all three splits.

    Args:
        label: int (images,) label ids.
        group: int (images,) from `group_ids`.
        fractions: shares of train, val, test.
        seed: the same seed, labels and groups give the same split.

    Returns:
        "<U5" (images,): "train", "val" or "test".

    Raises:
        UsageError: the fractions are no shares.
    """
    return np.array(SPLITS, dtype="<U5")[_shared_out(label, group, np.array(check_fractions(fractions)), seed)]


def _shared_out(label: np.ndarray, group: np.ndarray, shares: np.ndarray, seed: int) -> np.ndarray:
    """The part of each image, int (images,), where parts have shares; see `assign_splits`."""
    labels, column = np.unique(label, return_inverse=True)
    groups, row = np.unique(group, return_inverse=True)
    content = np.zeros((len(groups), len(labels)), np.int64)
    np.add.at(content, (row, column), 1)
    total = content.sum(axis=0)
    have = np.zeros((len(shares), len(labels)), np.int64)
    shuffled = np.random.default_rng(seed).permutation(len(groups))
    chosen = np.full(len(groups), -1)
    left = total.copy()
    while left.any():
        rarest = int(np.argmin(np.where(left > 0, left, left.sum() + 1)))
        waiting = [g for g in shuffled if chosen[g] < 0 and content[g, rarest]]
        waiting = [waiting[i] for i in np.argsort(-content[waiting, rarest], kind="stable")]
        for position, g in enumerate(waiting):
            lacking = (shares > 0) & (have[:, rarest] == 0)
            allowed = lacking if len(waiting) - position <= lacking.sum() else shares > 0
            lack = shares[:, None] * (total - left + content[g]) - have
            chosen[g] = _neediest((lack * content[g] / total**2).sum(axis=1), lack.sum(axis=1), allowed)
            have[chosen[g]] += content[g]
            left -= content[g]
    return chosen[row]


def _neediest(of_group: np.ndarray, of_all: np.ndarray, allowed: np.ndarray) -> int:
    # Rounded, so that sums of shares that differ in their last bit count as equal on every machine.
    ranked = [(round(float(of_group[s]), 9), round(float(of_all[s]), 9), -int(s)) for s in np.flatnonzero(allowed)]
    return -max(ranked)[2]


def fold_numbers(subject: Sequence[str], count: int, seed: int = 0) -> np.ndarray:
    """The fold of each image; no person stands in two.

    With as many folds as persons, fold k is the k-th person by name (leave one out). With fewer, persons are taken in a seeded
    order, those with most images first, each into the fold with the fewest images so far.

    Args:
        subject: one person an image, none unknown.
        count: folds.
        seed: of the order.

    Returns:
        int64 (images,), 0 to count - 1.

    Raises:
        DataError: an image without a person, or fewer persons than folds.

    Example:
        >>> fold_numbers(["KL", "DC", "JE", "DC"], 3).tolist()
        [2, 0, 1, 0]
    """
    unknown = sum(not person for person in subject)
    if unknown:
        raise DataError(
            f"folds need a person for every image, {unknown:,} of {len(subject):,} have none; give subject_pattern, or a "
            "manifest with a subject column"
        )
    persons, row, images = np.unique(np.array(subject, object).astype(str), return_inverse=True, return_counts=True)
    if len(persons) < count:
        raise DataError(f"{count} folds of {len(persons)} persons: some would be empty; expected at most {len(persons)} folds")
    if len(persons) == count:
        return row.astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(persons))
    order = order[np.argsort(-images[order], kind="stable")]
    filled, fold = np.zeros(count, np.int64), np.empty(len(persons), np.int64)
    for person in order:
        fold[person] = int(np.argmin(filled))
        filled[fold[person]] += images[person]
    return fold[row]


def stratified_folds(label: np.ndarray, group: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """The fold of each image of a set whose persons are not known: each label shared out alike, no group in two.

    Args:
        label: int (images,) label ids.
        group: int (images,) from `group_ids`.
        count: folds.
        seed: the same seed, labels and groups give the same folds.

    Returns:
        int64 (images,), 0 to count - 1.

    Raises:
        DataError: fewer groups than folds.
    """
    groups = len(np.unique(group))
    if groups < count:
        raise DataError(
            f"{count} folds of {groups} different photographs: some would be empty; expected at most {groups} folds"
        )
    return _shared_out(label, group, np.full(count, 1 / count), seed).astype(np.int64)


def fold_splits(fold: np.ndarray, folds: Folds) -> np.ndarray:
    """ "train", "val" or "test" by fold, "" for folds that are left aside: "<U5" (images,)."""
    names = {**dict.fromkeys(folds.training, "train"), folds.test: "test", folds.val: "val"}
    return np.array([names.get(int(number), "") for number in fold], dtype="<U5")


def limit_mask(label: np.ndarray, split: np.ndarray, limit: int, seed: int = 0) -> np.ndarray:
    """Choose at most `limit` images of each split, seeded; each label by its share, at least one where that fits.

    Args:
        label: int (images,); negative ones are never chosen.
        split: str (images,).
        limit: images per split, at least 1.

    Returns:
        bool (images,).

    Raises:
        UsageError: the limit is no whole number above 0.
    """
    limit = whole_number("limit", limit, 1)
    generator = np.random.default_rng(seed)
    mask = np.zeros(len(label), bool)
    for name in sorted(set(split.tolist())):
        rows = np.flatnonzero((split == name) & (label >= 0))
        mask[rows] = of_each_class(label[rows], lambda counts: _quotas(counts, limit), generator)
    return mask


def stratified(indices: np.ndarray, label: np.ndarray, limit: int, seed: int = 0) -> np.ndarray:
    """At most `limit` of `indices`, each class in proportion, chosen by `seed`, in the order they came.

    Args:
        indices: int (n,).
        label: int (n,), the class of each (any number may stand for "none").
        limit: at least 1.

    Raises:
        UsageError: the limit is no whole number above 0.
    """
    limit = whole_number("limit", limit, 1)
    return indices[of_each_class(label, lambda counts: _quotas(counts, limit), np.random.default_rng(seed))]


def of_each_class(label: np.ndarray, quotas: Callable[[np.ndarray], np.ndarray], generator: np.random.Generator) -> np.ndarray:
    """A stratified sample: so many images of each class, drawn from `generator`.

    Args:
        label: int (images,), the class of each.
        quotas: int (classes that occur,), images there are -> int (classes that occur,), images to take.

    Returns:
        bool (images,).
    """
    mask = np.zeros(len(label), bool)
    present, counts = np.unique(label, return_counts=True)
    for value, quota in zip(present, quotas(counts), strict=True):
        mask[generator.permutation(np.flatnonzero(label == value))[:quota]] = True
    return mask


def _quotas(counts: np.ndarray, total: int) -> np.ndarray:
    """Share `total` by `counts` in whole numbers (largest remainder), one each first where there are enough."""
    if total >= counts.sum():
        return counts
    base = np.ones_like(counts) if total >= len(counts) else np.zeros_like(counts)
    exact = counts * (total / counts.sum())
    quota = np.maximum(base, np.floor(exact).astype(np.int64))
    while quota.sum() != total:
        step = 1 if quota.sum() < total else -1
        open_to = quota < counts if step > 0 else quota > base
        quota[int(np.argmax(np.where(open_to, step * (exact - quota), -np.inf)))] += step
    return quota


def counts_table(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Lines of a table, split -> label -> images, and one line for each split that lacks a label."""
    labels = list(next(iter(counts.values()), {}))
    rows = [["split", *labels, "total"]]
    rows += [[split, *(f"{n:,}" for n in of.values()), f"{sum(of.values()):,}"] for split, of in counts.items()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    for split, of in counts.items():
        missing = [label for label, number in of.items() if not number]
        if missing:
            lines.append(f"no images of {', '.join(missing)} in {split}")
    return lines
