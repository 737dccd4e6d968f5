"""Intervals and paired tests against their definitions, drawn or added up the long way."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, f1_score

from emotiw_keras.evaluation.significance import (
    accuracy_difference_interval,
    holm,
    kappa,
    macro_f1,
    macro_f1_difference,
    macro_f1_interval,
    mcnemar,
)

RNG = np.random.default_rng(0)
TRUTH = RNG.integers(0, 4, 300)
A = np.where(RNG.random(300) < 0.6, TRUTH, RNG.integers(0, 4, 300))
B = np.where(RNG.random(300) < 0.8, TRUTH, RNG.integers(0, 4, 300))


def test_macro_f1_of_matrices_is_scikit_learns():
    matrix = np.zeros((5, 5))
    np.add.at(matrix, (TRUTH, A), 1)
    expected = f1_score(TRUTH, A, average="macro", labels=range(5), zero_division=0)
    assert macro_f1(matrix) == pytest.approx(expected) and macro_f1(np.stack([matrix] * 2)).shape == (2,)


def test_the_bootstrap_by_kinds_is_the_bootstrap_by_images():
    drawn = np.random.default_rng(1).integers(0, 300, (1000, 300))
    scores, others = (np.array([f1_score(TRUTH[rows], of[rows], average="macro") for rows in drawn]) for of in (A, B))
    assert macro_f1_interval(TRUTH, A, 4) == pytest.approx(np.percentile(scores, (2.5, 97.5)), abs=0.01)
    difference, low, high = macro_f1_difference(TRUTH, A, B, 4)
    assert difference == pytest.approx(f1_score(TRUTH, B, average="macro") - f1_score(TRUTH, A, average="macro"))
    assert (low, high) == pytest.approx(np.percentile(others - scores, (2.5, 97.5)), abs=0.01)


def test_a_macro_f1_that_no_resample_changes_has_an_interval_all_the_same() -> None:
    truth = np.repeat(np.arange(4), 10)
    low, high = macro_f1_interval(truth, truth, 4)
    assert 0.8 < low < 0.95 and high == pytest.approx(1)
    # As many answers tell more, and as many of ten persons less.
    assert low < macro_f1_interval(np.repeat(truth, 5), np.repeat(truth, 5), 4)[0]
    assert macro_f1_interval(truth, truth, 4, np.arange(40) % 10)[0] < low
    # Of sets whose answers are right by a chance of 0.97, those that are all right have it in their intervals.
    assert low < 0.97
    wrong_class = np.where(truth == 3, 0, truth)
    assert macro_f1_interval(truth, wrong_class, 4)[0] < macro_f1_interval(truth, wrong_class, 4)[1]


def test_a_difference_that_no_resample_changes_has_an_interval_all_the_same() -> None:
    truth, right = np.repeat(np.arange(4), 6), np.ones(24, bool)
    difference, low, high = macro_f1_difference(truth, truth, truth, 4)
    assert difference == 0 and -0.2 < low < -0.03 and 0.03 < high < 0.2
    wide = macro_f1_difference(truth, truth, truth, 4, np.arange(24) // 2)
    assert wide[1] < low and wide[2] > high  # of twelve persons
    low, high = accuracy_difference_interval(right, right)
    assert (low, high) == pytest.approx((-0.107, 0.107), abs=0.001)  # Bonett and Price: 1.96 * sqrt(2) / 26
    assert accuracy_difference_interval(right, right, np.arange(24) // 2)[1] > high
    low, high = accuracy_difference_interval(~right[:1], right[:1])  # one image, which one run alone has right
    assert low < 0 and high == 1
    assert macro_f1_difference(truth[:1], truth[-1:], truth[:1], 4)[1] < 0


def test_mcnemar_adds_up_the_binomial():
    for a, b in ((2, 10), (0, 5), (7, 8)):
        tail = sum(comb(a + b, k) for k in range(min(a, b) + 1)) / 2 ** (a + b)
        assert mcnemar(a, b) == mcnemar(b, a) == pytest.approx(min(1.0, 2 * tail))
    assert mcnemar(0, 0) == mcnemar(4, 4) == 1


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([0.2]) == [0.2]


def test_kappa_is_scikit_learns():
    assert kappa(A, B, 4) == pytest.approx(cohen_kappa_score(A, B))
    assert kappa(A, A, 4) == pytest.approx(1) and kappa(np.zeros(5, int), np.zeros(5, int), 3) == 1


def test_many_classes_cost_no_matrix_for_each_draw() -> None:
    """Two thousand confusion matrices of 3,000 classes would be 144 GB."""
    random, classes = np.random.default_rng(0), 3000
    truth, answer = random.integers(0, classes, (2, 50))
    low, high = macro_f1_interval(truth, answer, classes)
    assert 0 <= low <= high < 0.05
