"""From a reader's answers to the columns of an audit, each figure with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from emotiw_keras.audit.faces import LABELS, AuditFaces
from emotiw_keras.data.votes import VOTED
from emotiw_keras.errors import ModelError
from emotiw_keras.evaluation.metrics import expected_calibration_error
from emotiw_keras.evaluation.significance import Z_95, macro_f1, macro_f1_interval, wilson_interval
from emotiw_keras.labels import class_key

Figure = dict[str, Any]
"""{"value", "ci95": [low, high], "n"}."""


def in_order(answers: np.ndarray, labels: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """Columns in another order, by the names of the classes; classes that are not wanted are left out.

    Returns:
        float (n, wanted): a wanted class that a reader does not know is 0 throughout; NaN where no face was found.
    """
    place = {class_key(label): i for i, label in enumerate(labels)}
    columns = [answers[:, place[each]] if each in place else np.where(np.isnan(answers[:, 0]), np.nan, 0.0) for each in wanted]
    return np.stack(columns, axis=1)


def check_labels(labels: Sequence[str], called: str) -> None:
    """Refuse labels that cannot be audited on FER-2013.

    Raises:
        ModelError: two names of one class, or none of one of FER-2013's seven.
    """
    keys = [class_key(label) for label in labels]
    lacking = [label for label in LABELS if label not in keys]
    if lacking or len(set(keys)) < len(keys):
        what = f"no {', '.join(lacking)}" if lacking else "one class twice"
        raise ModelError(f"{called} has the labels {', '.join(labels)[:200]}: {what}; expected {', '.join(LABELS)}, and others")


def share(right: np.ndarray) -> Figure | None:
    """Of bool (n,): the share, with Wilson's interval; None where there is nothing."""
    if not len(right):
        return None
    count = int(right.sum())
    return {"value": count / len(right), "ci95": list(wilson_interval(count, len(right))), "n": len(right)}


def mean(values: np.ndarray) -> Figure | None:
    """Of float (n,): the mean, with the interval of the normal distribution; None where there is nothing."""
    if not len(values):
        return None
    centre = float(values.mean())
    half = Z_95 * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return {"value": centre, "ci95": [centre - half, centre + half], "n": len(values)}


def of_answers(answers: np.ndarray, labels: Sequence[str], faces: AuditFaces) -> dict[str, Any]:
    """All columns that follow from the answers to the faces as they are.

    A face that was not found counts as wrong everywhere but in the calibration error and the classes' precision, which are of
    the faces that were.

    Args:
        answers: float32 (n, labels), rows of sum 1, or of NaN where no face was found.
        labels: the reader's classes.
        faces: what it was asked.

    Raises:
        ModelError: it found no face at all.
    """
    found = ~np.isnan(answers).any(axis=1)
    if not found.any():
        raise ModelError(f"no face of {len(answers)} was found; an audit needs a way past the reader's own detector")
    seven = _renewed(in_order(answers, labels, LABELS))
    said = _said(seven)
    right = said == faces.truth
    confusion = _confusion(faces.truth, said)
    right_of, said_of = confusion.diagonal(), confusion.sum(axis=0)
    result: dict[str, Any] = {
        "found": int(found.sum()),
        "all": share(right),
        "without_twins": share(right[~faces.twin]),
        "without_near_twins": None if faces.near is None else share(right[~faces.near & ~faces.twin]),
        "macro_f1": _macro_f1(faces.truth, said),
        "ece": expected_calibration_error(faces.truth[found], seven[found]),
        "recall": {},
        "precision": {label: float(right_of[i] / max(1, said_of[i])) for i, label in enumerate(LABELS)},
    }
    for place, label in enumerate(LABELS):
        result["recall"][label] = share(right[faces.truth == place])
    return result | _of_votes(answers, labels, faces)


def _confusion(truth: np.ndarray, said: np.ndarray) -> np.ndarray:
    """int (classes + 1, classes + 1), rows are the truth; of a face that was not found a class beyond the others is said."""
    wide = len(LABELS) + 1
    return np.bincount(truth * wide + np.where(said < 0, wide - 1, said), minlength=wide**2).reshape(wide, wide)


def _macro_f1(truth: np.ndarray, said: np.ndarray) -> Figure:
    """Of all faces: the class beyond the others, which is never true, has F1 0 and no place in the mean."""
    wide = len(LABELS) + 1
    part = wide / len(LABELS)
    ends = macro_f1_interval(truth, np.where(said < 0, wide - 1, said), wide)
    value = part * float(macro_f1(_confusion(truth, said)))
    return {"value": value, "ci95": [part * end for end in ends], "n": len(truth)}


def _of_votes(answers: np.ndarray, labels: Sequence[str], faces: AuditFaces) -> dict[str, Any]:
    if faces.votes is None or faces.majority is None or faces.agreed is None:
        return {}
    eight = _renewed(in_order(answers, labels, VOTED))
    said, majority, agreed = _said(eight), faces.majority, faces.agreed
    in_seven = np.array([label in LABELS for label in VOTED])
    clear = majority >= 0
    basic = clear & in_seven[np.maximum(majority, 0)]
    seven_only = np.where(in_seven, eight, 0.0)
    said_of_seven = np.where(said < 0, -1, np.nan_to_num(seven_only).argmax(axis=1))
    strongest = faces.votes[:, : len(VOTED)].argmax(axis=1)
    voted = faces.votes.sum(axis=1)
    rated = voted > 0
    of_rater = np.where(said >= 0, faces.votes[np.arange(len(said)), np.maximum(said, 0)], 0)[rated] / voted[rated]
    known = clear & ~np.isnan(eight[:, 0])
    return {
        "ferplus_8": share((said == majority)[clear]),
        "ferplus_7": share((said_of_seven == majority)[basic]),
        "ferplus_agreed": share((said == strongest)[agreed]),
        "ferplus_ece": expected_calibration_error(majority[known], eight[known]) if known.any() else None,
        "with_a_rater": mean(of_rater),
    }


def of_humans(faces: AuditFaces) -> dict[str, Figure | None]:
    """What people reach, for the same faces: one rater against another, and the answer that most raters gave.

    The first leaves one vote out and asks what share of the others says the same, over all ten; no answer can agree with more
    raters than the second.
    """
    if faces.votes is None:
        return {}
    votes = faces.votes[faces.votes.sum(axis=1) > 1].astype(np.float64)
    total = votes.sum(axis=1)
    one = (votes * (votes - 1)).sum(axis=1) / (total * (total - 1))
    of_eight = votes[:, : len(VOTED)].max(axis=1) / total
    return {"one_rater_with_another": mean(one), "best_answer_with_a_rater": mean(of_eight)}


def _renewed(answers: np.ndarray) -> np.ndarray:
    """Rows of sum 1 again, after classes were left out; a row that has nothing left says all of them alike."""
    total = answers.sum(axis=1, keepdims=True)
    even = np.full_like(answers, 1 / answers.shape[1])
    return np.where(total == 0, even, answers / np.where(total == 0, 1, total))


def _said(answers: np.ndarray) -> np.ndarray:
    """int (n,): the most probable class, -1 where no face was found."""
    lost = np.isnan(answers).any(axis=1)
    return np.where(lost, -1, np.where(np.isnan(answers), -1.0, answers).argmax(axis=1))
