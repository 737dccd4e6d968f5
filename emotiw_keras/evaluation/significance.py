"""How sure a figure or a difference is: bootstrap intervals, paired tests, agreement.

Images of one person are answered alike, so that n images of few persons tell less than n of as many persons. Where persons are
known, they are what is drawn again in a bootstrap (Field and Welsh 2007), and what the two runs of a test are exchanged for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000
LEAST_PERSONS = 10
"""Fewer, drawn again, do not show how persons differ."""
FEW_EITHER = 50
"""Where fewer have an image that is read wrongly, or one that is read rightly, a share's bootstrap interval is too narrow."""
PRIOR_PERSONS = 0.25
"""Of each kind, all right and all wrong, that are added to those seen, so that some difference of persons is always allowed
for: the least of 0.25, 0.5 and 1 whose intervals covered in simulations (docs/statistics.md)."""
SEED = 0
Z_95 = 1.959963984540054
MOST_CLASSES = 200
"""Of which the chances of each answer are drawn: their number is that of classes squared."""
MOST_PAIRED = 30
"""Of which the chances of each pair of answers are drawn."""
DRAWN_AT_ONCE = 1 << 22
"""Numbers in memory while persons are drawn."""


def wilson_interval(right: float, n: float, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927), `right` of `n`, both ends within 0..1.

    Example:
        >>> low, high = wilson_interval(8, 10)
        >>> round(low, 4), round(high, 4)
        (0.4902, 0.9433)
    """
    if not 0 <= right <= n or n == 0:
        raise ValueError(f"right must be within 0..n and n at least 1; got right={right}, n={n}")
    p = right / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def macro_f1(confusion: np.ndarray) -> np.ndarray:
    """Mean F1 over the classes of confusion matrices: float (..., classes, classes), rows are the truth -> float (...).

    A class that is neither true nor predicted anywhere counts as 0, as in `metrics.scores`.
    """
    return _mean_f1(np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(axis=-1) + confusion.sum(axis=-2))


def _mean_f1(right: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The same of what is right of each class, and how often it was true or predicted: float (..., classes) -> float (...)."""
    return np.divide(2 * right, asked, out=np.zeros(right.shape), where=asked > 0).mean(axis=-1)


def _resampled_f1(truth: np.ndarray, predicted: np.ndarray, counts: np.ndarray, classes: int) -> np.ndarray:
    """`macro_f1` (resamples,) of drawn counts (resamples, kinds), a kind having its true and its predicted class. No confusion
    matrix is made: of many classes 2,000 of them are more than a machine holds."""
    from scipy.sparse import csr_array

    def of_class(which: np.ndarray, counted: np.ndarray) -> np.ndarray:
        place = csr_array((counted.astype(np.float64), (np.arange(len(which)), which)), shape=(len(which), classes))
        return counts @ place

    everywhere = np.ones(len(truth))
    return _mean_f1(of_class(truth, truth == predicted), of_class(truth, everywhere) + of_class(predicted, everywhere))


def person_numbers(subject: Sequence[str]) -> np.ndarray | None:
    """A number for each person: int64 (n,), or None where no image's person is known.

    An image of an unknown person counts as a person of its own.

    Args:
        subject: the person of each image, "" if unknown.

    Example:
        >>> person_numbers(["KL", "DC", "", "KL", ""]).tolist()
        [0, 1, 2, 0, 3]
    """
    numbers: dict[str | int, int] = {}
    found = [numbers.setdefault(person or row, len(numbers)) for row, person in enumerate(subject)]
    return np.array(found, np.int64) if any(isinstance(key, str) for key in numbers) else None


def _draws(codes: np.ndarray, persons: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Bootstrap over persons: which kinds of image there are, and how often each is drawn, (resamples, kinds).

    Args:
        codes: int (n,), the kind of each image.
        persons: int (n,); None draws images.

    Persons that would count alike, such as those of one image of one kind, are drawn together: the same distribution as drawing
    one by one, in a fraction of the time.
    """
    from scipy.sparse import csr_array

    kinds, kind = np.unique(codes, return_inverse=True)
    alone = np.ones(len(codes), bool)
    unit = kind
    if persons is not None:
        _, person, images = np.unique(persons, return_inverse=True, return_counts=True)
        alone = images[person] == 1
        unit = np.unique(np.where(alone, kind, len(kinds) + person), return_inverse=True)[1]
    weight = np.bincount(unit, alone)  # persons that a unit stands for
    weight[weight == 0] = 1
    content = csr_array((1 / weight[unit], (unit, kind)), shape=(len(weight), len(kinds)))
    generator, total = np.random.default_rng(SEED), int(weight.sum())
    step = max(1, DRAWN_AT_ONCE // len(weight))
    counts = [
        generator.multinomial(total, weight / total, size=min(step, RESAMPLES - done)) @ content
        for done in range(0, RESAMPLES, step)
    ]
    return kinds, np.concatenate(counts)


def _ends(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def share_interval(right: np.ndarray, persons: np.ndarray | None = None) -> tuple[float, float]:
    """The 95 % interval of the share of images that are right: by images Wilson's, by persons a percentile bootstrap.

    Where fewer than `FEW_EITHER` persons have an image that is wrong, or one that is right, it is Wilson's of as many images as
    tell the same of persons who are all alike (`_by_design_effect`). No interval by person is narrower than that by image.

    Args:
        right: bool (n,), at least one.
        persons: int (n,), from `person_numbers`; None counts by images.

    Example:
        >>> right = np.array([True] * 30 + [False] * 10 + [True] * 20)
        >>> low, high = share_interval(right)
        >>> round(low, 2), round(high, 2)
        (0.72, 0.91)
        >>> low, high = share_interval(right, np.arange(60) // 10)      # six persons of ten images, five of them always right
        >>> round(low, 2), round(high, 2)
        (0.32, 0.98)
    """
    by_image = wilson_interval(int(right.sum()), len(right))
    if persons is None:
        return by_image
    _, person, images = np.unique(persons, return_inverse=True, return_counts=True)
    hits = np.bincount(person, right)
    if min((hits > 0).sum(), (hits < images).sum()) < FEW_EITHER:
        return _outer(_by_design_effect(hits, images), by_image)
    kinds, counts = _draws(right.astype(np.int64), persons)
    return _outer(_ends(counts[:, kinds == 1].sum(axis=1) / counts.sum(axis=1)), by_image)


def _by_design_effect(hits: np.ndarray, images: np.ndarray) -> tuple[float, float]:
    """Wilson's interval of images divided by the design effect (Kish 1965; Rao and Scott 1992), at least 1, with the quantile
    of Student's t. The effect is that of the persons seen and of `PRIOR_PERSONS`.

    Args:
        hits: float (persons,), images that are right.
        images: int (persons,), of each.
    """
    from scipy.stats import t

    n, right, mean = float(images.sum()), float(hits.sum()), float(images.mean())
    persons, added = len(images) + 2 * PRIOR_PERSONS, PRIOR_PERSONS * mean
    share, of_all = (right + added) / (n + 2 * added), n + 2 * added
    squares = float(((hits - share * images) ** 2).sum()) + added * mean * ((1 - share) ** 2 + share**2)
    effect = max(1.0, persons / (persons - 1) * squares / (of_all * share * (1 - share)))
    return wilson_interval(right / effect, n / effect, float(t.ppf(0.975, len(images))))


def _outer(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    return min(one[0], other[0]), max(one[1], other[1])


def _few(persons: np.ndarray | None) -> bool:
    """Whether so few are drawn again that how they differ is not seen: an interval is then not narrower than by image."""
    return persons is not None and len(np.unique(persons)) < LEAST_PERSONS


def macro_f1_interval(
    truth: np.ndarray, predicted: np.ndarray, classes: int, persons: np.ndarray | None = None
) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of macro F1, over persons (2,000 resamples, one seed).

    Where all resamples have the same, as where all images are read rightly, it is that of the chances that fit what was seen
    (`_f1_of_chances`), a person counting once.

    Args:
        truth: int (n,).
        predicted: int (n,).
        classes: how many there are.
        persons: int (n,), from `person_numbers`; None draws images.
    """
    kinds, counts = _draws(truth * classes + predicted, persons)
    values = _resampled_f1(*np.divmod(kinds, classes), counts, classes)
    ends = _ends(values)
    if math.isclose(*ends) and classes <= MOST_CLASSES:
        ends = _outer(_ends(_f1_of_chances(truth, (predicted,), classes, _counts(persons))[0]), ends)
    return _outer(ends, macro_f1_interval(truth, predicted, classes)) if _few(persons) else ends


def _counts(persons: np.ndarray | None) -> float:
    """What an image counts, of 1, where a person counts once."""
    return 1.0 if persons is None else len(np.unique(persons)) / len(persons)


def _f1_of_chances(truth: np.ndarray, answers: Sequence[np.ndarray], classes: int, share: float) -> list[np.ndarray]:
    """Macro F1 (resamples,) of each of one or two runs, where the chances of their answers together to a class are drawn from
    what they may be after what was seen, a Dirichlet distribution with one answer beforehand, evenly of any class (Goutte and
    Gaussier, ECIR 2005).

    Args:
        truth: int (n,).
        answers: of each run int (n,), what it predicted.
        classes: how many there are.
        share: what an image counts, of 1.
    """
    generator, shape = np.random.default_rng(SEED), (classes,) * len(answers)
    code, kinds = np.ravel_multi_index(tuple(answers), shape), classes ** len(answers)
    right, asked = np.zeros((2, len(answers), RESAMPLES, classes))
    for of in np.unique(truth):
        counts = np.bincount(code[truth == of], minlength=kinds)
        drawn = counts.sum() * generator.dirichlet(share * counts + 1 / kinds, RESAMPLES).reshape(RESAMPLES, *shape)
        for run in range(len(answers)):
            its = drawn if len(answers) == 1 else drawn.sum(axis=2 - run)
            right[run][:, of] = its[:, of]
            asked[run][:, of] += counts.sum()
            asked[run] += its
    return [_mean_f1(*each) for each in zip(right, asked, strict=True)]


def macro_f1_difference(
    truth: np.ndarray, a: np.ndarray, b: np.ndarray, classes: int, persons: np.ndarray | None = None
) -> tuple[float, float, float]:
    """Macro F1 of `b` minus that of `a`, with the ends of its 95 % paired bootstrap interval: both on the same images.

    Where all resamples have the same, as of two perfect runs, it is that of the chances that fit what was seen, as
    `macro_f1_interval` has it, of up to `MOST_PAIRED` classes.

    Args:
        truth: int (n,).
        a: int (n,), what one run predicted.
        b: int (n,), what the other predicted.
        classes: how many there are.
        persons: int (n,), from `person_numbers`; None draws images.
    """
    kinds, counts = _draws((truth * classes + a) * classes + b, persons)
    rows, of_a, of_b = kinds // classes**2, kinds // classes % classes, kinds % classes
    values = _resampled_f1(rows, of_b, counts, classes) - _resampled_f1(rows, of_a, counts, classes)

    def whole(answers: np.ndarray) -> float:
        matrix = np.bincount(truth * classes + answers, minlength=classes**2).reshape(classes, classes)
        return float(macro_f1(matrix))

    ends = _ends(values)
    if np.isclose(*ends, rtol=0) and classes <= MOST_PAIRED:
        of_each = _f1_of_chances(truth, (a, b), classes, _counts(persons))
        ends = _outer(ends, _ends(of_each[1] - of_each[0]))
    if _few(persons):
        ends = _outer(ends, macro_f1_difference(truth, a, b, classes)[1:])
    return whole(b) - whole(a), *ends


def accuracy_difference_interval(
    right_a: np.ndarray, right_b: np.ndarray, persons: np.ndarray | None = None
) -> tuple[float, float]:
    """The 95 % paired bootstrap interval of the accuracy of b less that of a: both on the same images.

    Where all resamples have the same, as of two perfect runs, it is that of Bonett and Price 2012, a person counting once.

    Args:
        right_a, right_b: bool (n,), what each has right.
        persons: int (n,), from `person_numbers`; None draws images.
    """
    kinds, counts = _draws(right_b.astype(np.int64) - right_a, persons)
    ends = _ends(counts @ kinds / counts.sum(axis=1))
    if np.isclose(*ends, rtol=0):
        share, only_a, only_b = _counts(persons), int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
        ends = _outer(ends, _difference_of_shares(share * only_a, share * only_b, share * len(right_a)))
    return _outer(ends, accuracy_difference_interval(right_a, right_b)) if _few(persons) else ends


def _difference_of_shares(only_a: float, only_b: float, n: float) -> tuple[float, float]:
    """Bonett and Price's 95 % interval of the difference of two paired shares: one answer more for each run alone."""
    of_a, of_b = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    half = Z_95 * math.sqrt((of_a + of_b - (of_b - of_a) ** 2) / (n + 2))
    return max(-1.0, of_b - of_a - half), min(1.0, of_b - of_a + half)


def paired_test(right_a: np.ndarray, right_b: np.ndarray, persons: np.ndarray | None = None) -> float:
    """Exact two-sided test that two runs are equally often right on the same images.

    By images it is McNemar's (`mcnemar`). By persons it is the permutation test that extends it: if the runs do not differ, all
    answers to a person's images may be exchanged between them, so that what b has right more often than a of this person's
    images is as probable with the other sign. The distribution of the sum over persons is added up, not drawn; with one image a
    person it is McNemar's.

    Args:
        right_a, right_b: bool (n,), what each has right.
        persons: int (n,), from `person_numbers`; None tests by images.

    Returns:
        The probability of a difference at least as large by chance.

    Example:
        >>> a, b = np.zeros(12, bool), np.ones(12, bool)
        >>> paired_test(a, b), paired_test(a, b, np.arange(12) // 4)     # twelve images, of three persons
        (0.00048828125, 0.25)
    """
    if persons is None:
        return mcnemar(int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum()))
    from scipy.stats import binom

    number = np.unique(persons, return_inverse=True)[1]
    gain = np.bincount(number, right_b.astype(np.int64) - right_a).astype(np.int64)
    sizes = np.abs(gain[gain != 0])
    single = int((sizes == 1).sum())
    chance = binom.pmf(np.arange(single + 1), single, 0.5)  # of what is gained, 0 to as much as there is
    for size in sizes[sizes > 1].tolist():
        chance = (np.pad(chance, (0, size)) + np.pad(chance, (size, 0))) / 2
    sums = 2 * np.arange(len(chance)) - int(sizes.sum())
    p = float(chance[np.abs(sums) >= abs(int(gain.sum()))].sum())
    return p if p < 1 - 1e-12 else 1.0  # which the sum of all has in its last bits


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided McNemar test (McNemar 1947; binomial): the probability of a split at least as uneven by chance.

    Args:
        only_a: images that only the first run has right.
        only_b: images that only the second has right.

    Example:
        >>> mcnemar(2, 10)
        0.03857421875
    """
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue) if only_a + only_b else 1.0


def holm(values: Sequence[float]) -> list[float]:
    """P values of a family of tests, adjusted by Holm's step-down method (Holm 1979), in the same order.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = np.argsort(values, kind="stable")
    adjusted, largest = [0.0] * len(values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = largest
    return adjusted


def kappa(a: np.ndarray, b: np.ndarray, classes: int) -> float:
    """Cohen's kappa (Cohen 1960) of two runs' answers: agreement beyond chance, 1 at most; 1 where both say one thing only.

    Args:
        a: int (n,).
        b: int (n,).
        classes: how many there are.
    """
    table = np.bincount(a * classes + b, minlength=classes**2).reshape(classes, classes) / len(a)
    chance = float(table.sum(axis=0) @ table.sum(axis=1))
    return 1.0 if chance == 1 else (float(np.trace(table)) - chance) / (1 - chance)
