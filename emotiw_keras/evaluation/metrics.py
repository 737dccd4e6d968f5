"""The figures of `emotiw evaluate`: accuracy with its interval, per-class and macro scores, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support

from emotiw_keras.costs import cost_matrix
from emotiw_keras.errors import DataError, ModelError
from emotiw_keras.evaluation.significance import macro_f1_interval, person_numbers, share_interval
from emotiw_keras.evaluation.significance import wilson_interval as wilson_interval  # where it has always been found

ECE_BINS = 15
TEMPERATURES = (0.2, 5.0)
END = 1e-4
"""As a share of the largest temperature, how near to an end of the range is at it: a bounded search never quite reaches it."""


def reliability(
    truth: np.ndarray, probabilities: np.ndarray, bins: int = ECE_BINS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the largest probability promises and what it keeps, in equal-width bins (Guo et al. 2017, section 2).

    Args:
        truth: int (n,), the true class.
        probabilities: float (n, classes), rows summing to 1.
        bins: bin b of 1..bins holds the confidences in ((b - 1) / bins, b / bins].

    Returns:
        Images of each bin, the sum of their confidences, and how many of them are right: float (bins,) each.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == truth
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    images, promised, kept = (np.bincount(place, weights=w, minlength=bins) for w in (np.ones(len(truth)), confidence, right))
    return images, promised, kept


def expected_calibration_error(truth: np.ndarray, probabilities: np.ndarray, bins: int = ECE_BINS) -> float:
    """Top-label expected calibration error over equal-width bins (Guo et al. 2017, equation 3).

    Args:
        truth, probabilities, bins: as for `reliability`.

    Returns:
        The mean over images of |accuracy - confidence| of the image's bin, 0..1.
    """
    _, promised, kept = reliability(truth, probabilities, bins)
    return float(np.abs(kept - promised).sum() / len(truth))


def best_temperature(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """The temperature that makes the true classes most likely (Guo et al. 2017, section 4.2).

    Args:
        truth: int (n,), the true class.
        probabilities: float (n, classes), rows summing to 1.

    Example:
        >>> sure = np.full((10, 2), (0.999, 0.001))
        >>> bool(best_temperature(np.array([0] * 8 + [1] * 2), sure) > 2)      # sure of all, right in eight of ten
        True
    """
    logits = np.log(np.maximum(probabilities.astype(np.float64), 1e-12))

    def loss(temperature: float) -> float:
        scaled = logits / temperature
        return float(np.mean(np.logaddexp.reduce(scaled, axis=1) - scaled[np.arange(len(truth)), truth]))

    return float(minimize_scalar(loss, bounds=TEMPERATURES, method="bounded").x)


def told_temperature(temperature: float) -> str:
    """A temperature for people, and whether it is an end of the range in which `best_temperature` looks.

    Example:
        >>> told_temperature(1.25), told_temperature(4.99999)
        ('1.250', '5.000 (the end of the range 0.2 to 5, beyond which none was tried)')
    """
    low, high = TEMPERATURES
    end = min(temperature - low, high - temperature) < END * high
    return f"{temperature:.3f}" + (f" (the end of the range {low:g} to {high:g}, beyond which none was tried)" if end else "")


def at_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities float (n, classes) as they are when the logits are divided by a temperature."""
    powers: np.ndarray = np.maximum(probabilities.astype(np.float64), 1e-12) ** (1 / temperature)
    powers /= powers.sum(axis=1, keepdims=True)
    return powers


def scores(
    truth: np.ndarray,
    probabilities: np.ndarray,
    labels: Sequence[str],
    n: int | None = None,
    n_found: int | None = None,
    costs: np.ndarray | None = None,
    subject: Sequence[str] = (),
) -> dict[str, Any]:
    """All figures of `emotiw evaluate --json` that follow from truth and probabilities.

    A class without an image counts as 0 in the macro figures (scikit-learn's `zero_division=0`), so a set that lacks a
    class cannot look better for it. `abaw_score` is 0.67 macro-F1 + 0.33 accuracy, the ABAW challenge's score of 2020
    and 2021. `expected_cost` is the mean over images of what the answer cost: 0 if it was right, 1 for the worst
    confusion, less for one between expressions that are alike; where all confusions cost 1 it is the error rate.

    Args:
        truth: int (n_found,), the true class of each image, 0..classes-1.
        probabilities: float (n_found, classes), 0..1, rows summing to 1.
        labels: the class names, in the order of the columns.
        n: images asked for, unreadable ones included (default: n_found).
        n_found: images scored (default: len(truth)).
        costs: float (classes, classes), rows are the truth (default: `emotiw_keras.costs.cost_matrix`).
        subject: (n_found,), the person each image shows, "" if unknown; empty if none is known. Where persons are known, all
            intervals are by person, an image of an unknown one standing for itself; else they are by image.

    Returns:
        A dictionary ready for JSON: n, n_found, coverage, persons (None if none is known), person_unknown (images), accuracy,
        accuracy_ci95, macro_f1, macro_f1_ci95, balanced_accuracy, abaw_score, ece, log_loss, expected_cost, per_class (with
        recall_ci95, and persons beside support), confusion (rows are the truth), labels. The figures describe the n_found
        images.

    Raises:
        DataError: there is no image to score.
        ModelError: a probability is not a finite number.
        ValueError: the arguments do not belong together.

    Example:
        >>> result = scores(np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), ["no", "yes"])
        >>> round(result["accuracy"], 3), result["confusion"]
        (0.667, [[1, 0], [1, 1]])
    """
    truth = np.asarray(truth)
    probabilities = np.asarray(probabilities, dtype=np.float64)
    n_found = len(truth) if n_found is None else n_found
    n = n_found if n is None else n
    classes = len(labels)
    if probabilities.shape != (len(truth), classes) or n_found != len(truth) or n < n_found:
        raise ValueError(
            f"{len(truth)} true labels, probabilities of shape {probabilities.shape}, {classes} class names, n={n} and "
            f"n_found={n_found} do not belong together; expected ({n_found}, {classes}) and n >= n_found"
        )
    if n_found == 0:
        raise DataError(f"no image to score: 0 of {n} could be read")
    if not np.isfinite(probabilities).all():
        bad = int((~np.isfinite(probabilities)).any(axis=1).sum())
        raise ModelError(
            f"the model gave probabilities that are not finite numbers for {bad} of {n_found} images; "
            "its weights are damaged or it diverged, train it again"
        )
    total = probabilities.sum(axis=1, keepdims=True)
    if probabilities.min() < 0 or np.abs(total - 1).max() > 1e-2:
        raise ValueError(
            f"each row of probabilities must be >= 0 and sum to 1; the sums span {total.min():.4g}..{total.max():.4g}"
        )
    if truth.min() < 0 or truth.max() >= classes:
        raise ValueError(f"true labels must be within 0..{classes - 1}; they span {truth.min()}..{truth.max()}")
    probabilities = probabilities / total  # float32 rows sum to 1 only within rounding, which scikit-learn warns about

    costs = cost_matrix(labels) if costs is None else costs
    ids = list(range(classes))
    predicted = probabilities.argmax(axis=1)
    answered = predicted == truth
    accuracy = int(answered.sum()) / n_found
    if len(subject) not in (0, n_found):
        raise ValueError(f"{len(subject)} persons for {n_found} images; expected one an image, or none")
    persons, known = person_numbers(subject), np.array([bool(each) for each in subject] or [False] * n_found)
    precision, recall, f1, support = precision_recall_fscore_support(truth, predicted, labels=ids, zero_division=0)
    macro_f1, of_class = float(np.mean(f1)), truth == np.arange(classes)[:, None]
    return {
        "n": int(n),
        "n_found": int(n_found),
        "coverage": n_found / n,
        "persons": None if persons is None else len(np.unique(persons[known])),
        "person_unknown": n_found - int(known.sum()),
        "accuracy": accuracy,
        "accuracy_ci95": list(share_interval(answered, persons)),
        "macro_f1": macro_f1,
        "macro_f1_ci95": list(macro_f1_interval(truth, predicted, classes, persons)),
        "balanced_accuracy": float(np.mean(recall[support > 0])),  # the mean over classes that have images
        "abaw_score": 0.67 * macro_f1 + 0.33 * accuracy,
        "ece": expected_calibration_error(truth, probabilities),
        "log_loss": float(log_loss(truth, probabilities, labels=ids)) if classes > 1 else 0.0,
        "expected_cost": float(costs[truth, predicted].mean(dtype=np.float64)),
        "per_class": {
            label: {
                "precision": float(p),
                "recall": float(r),
                "recall_ci95": list(share_interval(answered[of], None if persons is None else persons[of])) if s else None,
                "f1": float(f),
                "support": int(s),
                "persons": None if persons is None else len(np.unique(persons[of & known])),
            }
            for label, p, r, f, s, of in zip(labels, precision, recall, f1, support, of_class, strict=True)
        },
        "confusion": confusion_matrix(truth, predicted, labels=ids).tolist(),
        "labels": list(labels),
    }
