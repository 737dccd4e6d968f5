"""How sure a figure or a difference is: bootstrap intervals, paired tests, agreement."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000
SEED = 0


def macro_f1(confusion: np.ndarray) -> np.ndarray:
    """Mean F1 over the classes of confusion matrices: float (..., classes, classes), rows are the truth -> float (...).

    A class that is neither true nor predicted anywhere counts as 0, as in `metrics.scores`.
    """
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    asked = confusion.sum(axis=-1) + confusion.sum(axis=-2)
    return np.divide(2 * right, asked, out=np.zeros(right.shape), where=asked > 0).mean(axis=-1)


def _resampled(cells: np.ndarray, counts: np.ndarray, classes: int) -> np.ndarray:
    """Confusion matrices (resamples, classes, classes) of drawn counts (resamples, kinds), a kind having its cell."""
    place = np.zeros((len(cells), classes * classes))
    place[np.arange(len(cells)), cells] = 1
    return (counts @ place).reshape(len(counts), classes, classes)


def _draws(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bootstrap over images: which kinds of image there are, and how often each is drawn, (resamples, kinds).

    Images that count alike are drawn together: the same distribution as drawing one by one, in a fraction of the time.
    """
    kinds, counts = np.unique(codes, return_counts=True)
    return kinds, np.random.default_rng(SEED).multinomial(len(codes), counts / len(codes), size=RESAMPLES)


def macro_f1_interval(truth: np.ndarray, predicted: np.ndarray, classes: int) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of macro F1, over images (2,000 resamples, one seed).

    Args:
        truth: int (n,).
        predicted: int (n,).
        classes: how many there are.
    """
    kinds, counts = _draws(truth * classes + predicted)
    values = macro_f1(_resampled(kinds, counts, classes))
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def macro_f1_difference(truth: np.ndarray, a: np.ndarray, b: np.ndarray, classes: int) -> tuple[float, float, float]:
    """Macro F1 of `b` minus that of `a`, with the ends of its 95 % paired bootstrap interval: both on the same images.

    Args:
        truth: int (n,).
        a: int (n,), what one run predicted.
        b: int (n,), what the other predicted.
        classes: how many there are.
    """
    kinds, counts = _draws((truth * classes + a) * classes + b)
    rows, of_a, of_b = kinds // classes**2, kinds // classes % classes, kinds % classes
    values = macro_f1(_resampled(rows * classes + of_b, counts, classes))
    values -= macro_f1(_resampled(rows * classes + of_a, counts, classes))
    low, high = np.percentile(values, (2.5, 97.5))

    def whole(answers: np.ndarray) -> float:
        matrix = np.bincount(truth * classes + answers, minlength=classes**2).reshape(classes, classes)
        return float(macro_f1(matrix))

    return whole(b) - whole(a), float(low), float(high)


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
