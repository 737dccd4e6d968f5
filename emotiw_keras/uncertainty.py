"""When an answer is too unsure to be used, and where it lies in pleasure and arousal.

How unsure an answer is, is the entropy of its probabilities. Which entropy is too much, the validation images say: answers from
that entropy on were wrong at least as often as right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emotiw_keras.costs import CIRCUMPLEX
from emotiw_keras.errors import RunError
from emotiw_keras.labels import canonical
from emotiw_keras.sealed import read_sealed, sealed_json

UNCERTAINTY_FILE = "uncertainty.json"
LEAST_PLACED = 0.5
"""Probability that must lie on classes with a known place before a valence is derived from them."""


@dataclass(frozen=True)
class Usable:
    """Up to which entropy the answers of a run are usable, and how that was found.

    Attributes:
        entropy: in nats; an answer with a larger one is uncertain.
        weights: SHA-256 of the weights that it holds for.
        chosen_on: the split, or "cross-validation" of a classifier that was fitted again on its validation images.
        images: its images that the run was not trained on, or that stood outside of the fold that answered.
        accuracy: of all answers on them.
        coverage: share of the answers that are not uncertain.
        accuracy_usable: of those.
    """

    entropy: float
    weights: str
    chosen_on: str
    images: int
    accuracy: float
    coverage: float
    accuracy_usable: float

    def to_json(self) -> str:
        """What `read_usable` reads, of a run with one answer."""
        return usable_json(self)


def usable_json(own: Usable, heads: Mapping[str, Usable] | None = None) -> str:
    """The content of `uncertainty.json`: of the run's own answer, and of its other heads by name."""
    others = {name: asdict(limit) for name, limit in (heads or {}).items()}
    return sealed_json({"format": 1, **asdict(own), **({"heads": others} if others else {})})


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """The entropy in nats of probabilities, 0..ln(classes): float (..., classes) -> float64 (...).

    Example:
        >>> entropy(np.array([[1, 0], [0.5, 0.5]])).round(3).tolist()
        [0.0, 0.693]
    """
    values = np.asarray(probabilities, np.float64)
    return -np.sum(values * np.log(np.where(values > 0, values, 1.0)), axis=-1) + 0.0


def coverage_curve(truth: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What leaving out the most unsure answers is worth (El-Yaniv and Wiener 2010: risk and coverage).

    Args:
        truth: int (n,), the true class.
        probabilities: float (n, classes), rows summing to 1.

    Returns:
        The entropies that occur, rising; the share of answers that are no less sure than that, and how many of those are right:
        float (m,) each.
    """
    unsure, right = entropy(probabilities), np.argmax(probabilities, axis=1) == truth
    order = np.argsort(unsure, kind="stable")
    last = np.append(np.diff(unsure[order]) > 0, True)  # answers that are equally unsure go together
    kept = np.arange(1, len(truth) + 1)
    return unsure[order][last], (kept / len(truth))[last], (np.cumsum(right[order]) / kept)[last]


def usable_entropy(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """The entropy up to which keeping answers gains more right ones than wrong ones; 0 where there is no such.

    Args:
        truth, probabilities: as for `coverage_curve`, of images that trained nothing.

    Example:
        >>> sure, unsure = [0.9, 0.1], [0.6, 0.4]
        >>> limit = usable_entropy(np.array([0, 0, 1, 1, 1]), np.array([sure, sure, unsure, unsure, unsure]))
        >>> bool(limit == entropy(np.array(sure)))
        True
    """
    unsure, coverage, accuracy = coverage_curve(truth, probabilities)
    gain = coverage * (2 * accuracy - 1)
    best = int(np.argmax(np.round(gain, 12)))
    return float(unsure[best]) if gain[best] > 0 else 0.0


def usable(truth: np.ndarray, probabilities: np.ndarray, weights: str, chosen_on: str) -> Usable:
    """`usable_entropy` with what it means for these images."""
    limit = usable_entropy(truth, probabilities)
    right, kept = np.argmax(probabilities, axis=1) == truth, entropy(probabilities) <= limit
    share = float(right[kept].mean()) if kept.any() else 0.0
    return Usable(limit, weights, chosen_on, len(truth), float(right.mean()), float(kept.mean()), share)


def selective(limit: Usable | None, truth: np.ndarray, probabilities: np.ndarray) -> dict[str, Any] | None:
    """What becomes of other images where uncertain answers are left out: the entropy, the share of answers that are kept, and
    how many of those are right (None where none is); None where the run does not say what is usable."""
    if limit is None:
        return None
    kept = entropy(probabilities) <= limit.entropy
    right = np.argmax(probabilities, axis=1) == truth
    accuracy = float(right[kept].mean()) if kept.any() else None
    return {"entropy": limit.entropy, "chosen_on": limit.chosen_on, "coverage": float(kept.mean()), "accuracy": accuracy}


def read_usable(folder: Path, weights: str, classes: int, head: str | None = None) -> Usable | None:
    """What a run folder says of its answers; None where it says nothing.

    Args:
        folder: of the run.
        weights: SHA-256 of its weight file.
        classes: of the answers.
        head: another head than the run's own choice.

    Raises:
        RunError: the file is damaged, or is of other weights.
    """
    path = folder / UNCERTAINTY_FILE
    if not path.exists():
        return None
    content = read_sealed(path)
    if content.get("format") == 1 and head is not None:
        others = content.get("heads", {})
        if not isinstance(others, dict) or not isinstance(others.get(head, {}), dict):
            raise RunError(f"{folder} is damaged: {UNCERTAINTY_FILE} does not hold the entropy of usable answers")
        if head not in others:
            return None
        content = {"format": 1, **others[head]}
    values: dict[str, Any] = {key: content.get(key) for key in Usable.__dataclass_fields__}
    shares = [values[key] for key in ("accuracy", "coverage", "accuracy_usable")]
    if (
        content.get("format") != 1
        or not is_entropy(values["entropy"], classes)
        or not all(type(share) in (int, float) and 0 <= share <= 1 for share in shares)
        or type(values["images"]) is not int
        or not all(isinstance(values[key], str) for key in ("weights", "chosen_on"))
    ):
        raise RunError(f"{folder} is damaged: {UNCERTAINTY_FILE} does not hold the entropy of usable answers")
    if values["weights"] != weights:
        raise RunError(f"{folder} is damaged: {UNCERTAINTY_FILE} is of other weights; take it out, or put back a whole copy")
    return Usable(**values)


def is_entropy(value: Any, classes: int) -> bool:
    """Whether a value can be the entropy of so many classes."""
    return type(value) in (int, float) and 0 <= value <= math.log(max(classes, 1)) + 1e-6


def derived_affect(probabilities: Mapping[str, float]) -> dict[str, float] | None:
    """Valence and arousal, -1..1, derived from probabilities: the mean of the classes' places on Russell's circumplex, which
    are ratings of words (see `emotiw_keras.costs`). Nothing of it was measured on a face.

    Classes without a place, such as contempt, are left out and the others' probabilities scaled up; None where those have less
    than half of the probability.

    Example:
        >>> derived_affect({"happy": 0.5, "neutral": 0.5})
        {'valence': 0.405, 'arousal': 0.255}
        >>> derived_affect({"calm": 1.0}) is None
        True
    """
    names = [(canonical(label) or label, share) for label, share in probabilities.items()]
    places = [(CIRCUMPLEX[name], share) for name, share in names if name in CIRCUMPLEX]
    total = sum(share for _, share in places)
    if not places or total < LEAST_PLACED:
        return None
    return {
        name: round(sum(place[axis] * share for place, share in places) / total, 4)
        for axis, name in enumerate(("valence", "arousal"))
    }


def named(labels: Sequence[str], row: np.ndarray) -> dict[str, float]:
    """Probabilities by class."""
    return {label: float(value) for label, value in zip(labels, row, strict=True)}
