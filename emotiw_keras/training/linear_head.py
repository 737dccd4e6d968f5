"""A classifier on features: logistic regression whose strength cross-validation chooses, no person on two sides.

All of it is deterministic: the same features, labels and seed give the same bits on the same machine with the same number of
threads.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from emotiw_keras.errors import DataError

STRENGTHS = tuple(10.0**power for power in np.arange(-2.0, 2.01, 0.5))
"""Values of scikit-learn's C that are tried: features and the start's answers come with a mean square of 1 each."""
ITERATIONS = 200
TOLERANCE = 1e-3
TEMPERATURES = np.geomspace(0.01, 10.0, 46)
MOST_COLUMNS = 1024
"""So many directions, those of most variance, tell images apart as well as all: a penalty leaves little of the others."""
LEAST_JUDGED = 10
"""Images that the network was not trained on; fewer cannot choose."""
MISSING = 20.0
"""How far the logit of a class without training images lies below the others."""
SMALLEST_SPREAD = 0.01
"""Features that hardly vary are not blown up: their spread counts as at least this share of the largest."""
SMALLEST_VARIANCE = 1e-7
SMALLEST_SHARE = 1e-6
"""Probabilities below it count as it in a log loss."""


@dataclass(frozen=True)
class LinearHead:
    """A Dense layer on features, and how it was chosen.

    Attributes:
        kernel, bias: float32 (features, classes) and (classes,): logits are `features @ kernel + bias`.
        strength: C of the logistic regression.
        start: whether the start's answers are among what it goes by.
        temperature: what the logits were divided by.
        accuracy, log_loss: of all judged images, each answered by a head that was fitted without its person, and each counting
            once: what the strength was chosen by counts them as they are weighted. None without folds.
        folds: of the cross-validation; 0 where none leaves two classes to learn from, so that nothing is judged.
        answers: float64 (judged images, classes), the probabilities behind `accuracy` and `log_loss`.
    """

    kernel: np.ndarray
    bias: np.ndarray
    strength: float
    start: bool
    temperature: float
    accuracy: float | None
    log_loss: float | None
    folds: int
    answers: np.ndarray


def fit_linear_head(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    start: tuple[np.ndarray, np.ndarray],
    *,
    weights: np.ndarray,
    judged: np.ndarray | None = None,
    folds: int = 5,
    seed: int = 0,
    where: str = "the head",
) -> LinearHead:
    """Fit a classifier on features.

    Each feature is brought to a mean of 0 and a deviation of 1. Beside them stand the answers of the present classifier, which
    weigh as much as all features together, so that a strong penalty leads back to these answers and not to none; cross-
    validation tries to do without them too. What scores best there, by accuracy (weighted as the images are; of equal ones by
    the log loss), is fitted on all images, and its logits are divided by the temperature at which the answers of the cross-
    validation have the least log loss. Standardisation, answers and temperature are linear and go into the weights.

    Args:
        features: float32 (views, images, features): each image seen plain, mirrored and so on; probabilities are averaged.
        labels: int (images,).
        groups: int (images,): images of one group, such as a person, are on one side in every fold.
        start: kernel (features, classes) and bias (classes,) of the present classifier.
        weights: float (classes,): how much an image counts, by its label.
        judged: bool (images,): those whose answers choose strength and temperature, as the network was not trained on them; all
            if None. Are they too few, all choose the strength: it does without the start's answers then, and makes none surer.
        folds: at most so many.
        seed: of the folds.
        where: how errors name it.

    Raises:
        DataError: images of one class, or of one group, alone.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> labels = np.arange(40) % 2
        >>> features = rng.normal(size=(1, 40, 3)).astype(np.float32) + labels[:, None]
        >>> none = np.zeros((3, 2), np.float32), np.zeros(2, np.float32)
        >>> head = fit_linear_head(features, labels, np.arange(40), none, weights=np.ones(2))
        >>> head.kernel.shape, head.accuracy > 0.7
        ((3, 2), True)
    """
    classes = start[0].shape[1]
    check_varied(labels, groups, where)
    splits = _splits(labels, groups, min(folds, len(np.unique(groups))), seed)
    judged = np.ones(len(labels), bool) if judged is None else judged
    blind = not splits or judged.sum() < LEAST_JUDGED or len(np.unique(labels[judged])) < 2
    counts = np.ones(len(labels), bool) if blind else judged
    best: tuple[tuple[float, float], _Space, int, float] | None = None
    answers = np.empty((0, classes))
    for space in _spaces(features, start):
        if blind and space.answers is not None:
            continue
        logits = np.full((len(STRENGTHS), *features.shape[:2], classes), -MISSING)
        for inside, outside in splits:
            for number, (kernel, bias) in enumerate(_path(space.mine[inside], labels[inside], weights, classes)):
                logits[number][:, outside] = space.rows[:, outside] @ kernel + bias
        for number, each in enumerate(logits[:, :, counts]):
            temperature, loss = _temperature(each, labels[counts], weights[labels[counts]], 1.0 if blind else 0.0)
            # rounded, so that the last bits of sums decide nothing
            score = (_accuracy(each / temperature, labels[counts], weights[labels[counts]]), -round(loss, 6))
            if best is None or score > best[0]:
                best, answers = (score, space, number, temperature), _probabilities(each / temperature)
    assert best is not None
    _, space, number, temperature = best
    kernel, bias = list(_path(space.mine, labels, weights, classes, STRENGTHS[: number + 1]))[-1]
    kernel, bias = space.unfold(kernel, bias)
    kernel, bias = (kernel / temperature).astype(np.float32), (bias / temperature).astype(np.float32)
    used = space.answers is not None
    strength, count = float(STRENGTHS[number]), len(splits)
    if not splits:
        return LinearHead(kernel, bias, strength, used, temperature, None, None, 0, np.empty((0, classes)))
    accuracy = float((answers.argmax(axis=1) == labels[counts]).mean())
    of_truth = answers[np.arange(len(answers)), labels[counts]]
    loss = float(-np.log(np.maximum(of_truth, SMALLEST_SHARE)).mean())
    return LinearHead(kernel, bias, strength, used, temperature, accuracy, loss, count, answers[judged[counts]])


def check_varied(labels: np.ndarray, groups: np.ndarray, where: str) -> None:
    """DataError for images of one class, or of one group, alone; arguments as of `fit_linear_head`."""
    if len(np.unique(labels)) < 2:
        raise DataError(f"{where}: all {len(labels):,} training images are of one class; expected at least two")
    if len(np.unique(groups)) < 2:
        raise DataError(
            f"{where}: all {len(labels):,} training images show one person or one photograph, so that nothing tells how it "
            "reads others; expected at least two, or no subject_pattern"
        )


def _splits(labels: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(inside, outside) positions of each fold in which at least two classes are inside."""
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    # more folds than images of any class: there is nothing to stratify
    stratified = np.bincount(labels).max() >= folds
    cut = StratifiedGroupKFold(folds, shuffle=True, random_state=seed) if stratified else GroupKFold(folds)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        found = [pair for pair in cut.split(labels, labels, groups) if len(pair[1])]
    return [(inside, outside) for inside, outside in found if len(np.unique(labels[inside])) > 1]


@dataclass(frozen=True)
class _Space:
    """Standardised features, turned into as few columns as they span, `MOST_COLUMNS` at most.

    Attributes:
        mine: float64 (images, columns), the mean over the views, which a head is fitted on.
        rows: float64 (views, images, columns), which it answers.
        axes: float64 (features and answers, columns).
        mean, factor: of the features.
        answers: kernel (features, classes) and bias of the answers, scaled, or None.
    """

    mine: np.ndarray
    rows: np.ndarray
    axes: np.ndarray
    mean: np.ndarray
    factor: np.ndarray
    answers: tuple[np.ndarray, np.ndarray] | None

    def unfold(self, kernel: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weights for `rows` as weights for the features as they came."""
        whole = self.axes @ kernel
        of_features = whole[: len(self.factor)] * self.factor[:, None]
        bias = bias - self.mean @ of_features
        if self.answers is not None:
            of_answers = whole[len(self.factor) :]
            of_features = of_features + self.answers[0] @ of_answers
            bias = bias + self.answers[1] @ of_answers
        return of_features, bias


def _spaces(features: np.ndarray, start: tuple[np.ndarray, np.ndarray]) -> Iterator[_Space]:
    """The features with the start's answers, if it gives any, and without."""
    width = features.shape[2]
    seen = features.astype(np.float64)
    mean, spread = seen.mean(axis=(0, 1)), seen.std(axis=(0, 1))
    spread = np.maximum(spread, SMALLEST_SPREAD * spread.max(initial=0.0))
    factor = np.divide(1.0, spread, out=np.zeros(width), where=spread > 0) / np.sqrt(width)
    kernel, bias = (value.astype(np.float64) for value in start)
    kernel, bias = kernel - kernel.mean(axis=1, keepdims=True), bias - bias.mean()
    answers = seen @ kernel + bias
    seen -= mean
    seen *= factor
    size = np.sqrt((answers**2).sum(axis=2).mean())
    if answers.std(axis=(0, 1)).max() > 0:
        both = np.concatenate([seen, answers / size], axis=2)
        yield _space(both, mean, factor, (kernel / size, bias / size))
    yield _space(seen, mean, factor, None)


def _space(rows: np.ndarray, mean: np.ndarray, factor: np.ndarray, answers: tuple[np.ndarray, np.ndarray] | None) -> _Space:
    """Rows (views, images, features and answers) in orthogonal axes of the images: the penalty cannot tell the difference, and
    with few images they are few."""
    mine = rows.mean(axis=0)
    if mine.shape[0] >= mine.shape[1]:
        values, vectors = np.linalg.eigh(mine.T @ mine)
        axes = vectors[:, _kept(values)]
    else:
        values, vectors = np.linalg.eigh(mine @ mine.T)
        kept = _kept(values)
        axes = mine.T @ (vectors[:, kept] / np.sqrt(values[kept]))
    return _Space(mine @ axes, rows @ axes, axes, mean, factor, answers)


def _kept(values: np.ndarray) -> np.ndarray:
    """Positions of the largest of eigenvalues in rising order."""
    return np.flatnonzero(values > SMALLEST_VARIANCE * values[-1])[-MOST_COLUMNS:]


def _path(
    rows: np.ndarray, labels: np.ndarray, weights: np.ndarray, classes: int, strengths: Sequence[float] = STRENGTHS
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Kernel and bias for each strength, in their order, each from the one before."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=ITERATIONS, tol=TOLERANCE, warm_start=True)
    for strength in strengths:
        with warnings.catch_warnings():
            # weak penalties, which lose anyway, take longest
            warnings.filterwarnings("ignore", category=ConvergenceWarning)
            model.set_params(C=strength).fit(rows, labels, sample_weight=weights[labels])
        found, offsets = model.coef_.T, model.intercept_
        if len(model.classes_) == 2:
            found, offsets = np.hstack([-found / 2, found / 2]), np.array([-offsets[0] / 2, offsets[0] / 2])
        kernel, bias = np.zeros((rows.shape[-1], classes)), np.full(classes, offsets.min() - MISSING)
        kernel[:, model.classes_], bias[model.classes_] = found, offsets
        yield kernel, bias


def _probabilities(logits: np.ndarray) -> np.ndarray:
    """Logits (views, images, classes) -> probabilities (images, classes)."""
    powers = np.exp(logits - logits.max(axis=2, keepdims=True))
    return (powers / powers.sum(axis=2, keepdims=True)).mean(axis=0)


def _accuracy(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    right = _probabilities(logits).argmax(axis=1) == labels
    return round(float((right * weights).sum() / weights.sum()), 9)


def _temperature(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray, least: float) -> tuple[float, float]:
    """Of `TEMPERATURES` from `least` on the best, and the log loss at it.

    Best is the one with the least log loss of labels that are a little in doubt, (n + 1) / (n + classes) in place of 1 (Platt
    1999): so few images, all of them right, would have the answers as sure as numbers can be.
    """
    tried = TEMPERATURES[least <= TEMPERATURES]
    classes = logits.shape[2]
    wanted = np.full((len(labels), classes), 1 / (len(labels) + classes))
    wanted[np.arange(len(labels)), labels] = (len(labels) + 1) / (len(labels) + classes)
    in_doubt, plain = [], []
    for temperature in tried:
        told = np.log(np.maximum(_probabilities(logits / temperature), SMALLEST_SHARE))
        in_doubt.append(float(-((wanted * told).sum(axis=1) * weights).sum() / weights.sum()))
        plain.append(float(-(told[np.arange(len(labels)), labels] * weights).sum() / weights.sum()))
    best = int(np.argmin(in_doubt))
    return float(tried[best]), plain[best]
