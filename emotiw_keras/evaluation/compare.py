"""Runs side by side on the same images, with paired tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from emotiw_keras.errors import UsageError
from emotiw_keras.evaluation.assessment import Assessment, Predictions, figures
from emotiw_keras.evaluation.ensemble import matched, seen_by_any
from emotiw_keras.evaluation.significance import (
    accuracy_difference_interval,
    holm,
    kappa,
    macro_f1_difference,
    paired_test,
    person_numbers,
)

KEPT = (
    "persons", "accuracy", "accuracy_ci95", "macro_f1", "macro_f1_ci95", "balanced_accuracy", "expected_cost", "ece",
    "log_loss", "per_class",
)  # fmt: skip


def compare(assessments: Sequence[Assessment]) -> dict[str, Any]:
    """Figures of several runs on the same images, and the differences of each pair.

    Accuracy: exact paired test; macro F1: paired bootstrap; both by person where any is known, else by image (`significance`).
    With more than one pair the p values are adjusted by Holm's method too.
    Leak-free figures leave out every image that any of the runs has seen, so that all are scored on the same ones.

    Args:
        assessments: two or more, of the same images; the order of the labels may differ.

    Returns:
        `{"split", "labels", "n", "n_found", "runs": [...], "pairs": [...], "costs", "unrecorded", "leak_free": {"n", "n_found",
        "runs", "pairs"} or None}`, beside "n_found" also "persons" and "person_unknown"; "unrecorded" names the runs of which
        not all images are recorded. Of a pair `a`, `b` the differences are b minus a; `mcnemar_p` is of the exact test by image
        or of its form by person; `mcnemar_p_holm` is the same for one pair.

    Raises:
        UsageError: fewer than two runs, or different labels.
        DataError: different images.
    """
    if len(assessments) < 2:
        raise UsageError(f"comparing needs at least two runs; got {len(assessments)}")
    predictions = matched(assessments)
    names = _names(assessments)
    seen = seen_by_any(assessments)
    question = assessments[0].question
    readable = predictions[0].readable
    leak_free = _side_by_side(assessments, predictions, names, ~seen, new=True) if (~seen & readable).any() else None
    return {
        "split": question.split,
        "labels": list(predictions[0].labels),
        **_side_by_side(assessments, predictions, names, np.ones(len(seen), dtype=bool)),
        "costs": question.costs.source,
        "unrecorded": [name for name, each in zip(names, assessments, strict=True) if each.unrecorded],
        "leak_free": leak_free,
    }


def _names(assessments: Sequence[Assessment]) -> list[str]:
    """The runs' folder names, or their paths where names repeat."""
    names = [each.name for each in assessments]
    return names if len(set(names)) == len(names) else [str(each.path) for each in assessments]


def _side_by_side(
    assessments: Sequence[Assessment],
    predictions: Sequence[Predictions],
    names: Sequence[str],
    kept: np.ndarray,
    new: bool = False,
) -> dict[str, Any]:
    """Figures and pairs on the images of `kept`, bool (n,); `new` are those that no run was given."""
    rows = np.flatnonzero(kept)
    parts = [each.select(rows) for each in predictions]
    runs = []
    for name, assessment, part in zip(names, assessments, parts, strict=True):
        # The matrix of the first run's order, as the labels are.
        question = replace(assessment.question, costs=assessments[0].question.costs)
        selected_on = assessment.result["selected_on"] and not new
        result = figures(part, np.ones(len(rows), dtype=bool), question, selected_on=selected_on)
        head = {"run": name, "path": str(assessment.path), "selected_on": selected_on, "crops": question.crops}
        runs.append(head | {key: result[key] for key in KEPT})
    read = parts[0].readable
    truth, classes = parts[0].truth[read], len(parts[0].labels)
    answers = [part.predicted[read] for part in parts]
    persons = person_numbers(parts[0].select(np.flatnonzero(read)).subject)
    pairs = [
        {"a": names[a], "b": names[b], **_pair(truth, answers[a], answers[b], classes, persons)}
        for a, b in combinations(range(len(names)), 2)
    ]
    for pair, adjusted in zip(pairs, holm([pair["mcnemar_p"] for pair in pairs]), strict=True):
        pair["mcnemar_p_holm"] = adjusted
    known = {"persons": result["persons"], "person_unknown": result["person_unknown"]}
    return {"n": len(rows), "n_found": int(read.sum()), **known, "runs": runs, "pairs": pairs}


def _pair(truth: np.ndarray, a: np.ndarray, b: np.ndarray, classes: int, persons: np.ndarray | None) -> dict[str, Any]:
    right_a, right_b = a == truth, b == truth
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    difference, low, high = macro_f1_difference(truth, a, b, classes, persons)
    return {
        "accuracy_difference": (only_b - only_a) / len(truth),
        "accuracy_difference_ci95": list(accuracy_difference_interval(right_a, right_b, persons)),
        "only_a_right": only_a,
        "only_b_right": only_b,
        "mcnemar_p": paired_test(right_a, right_b, persons),
        "macro_f1_difference": difference,
        "macro_f1_difference_ci95": [low, high],
        "agreement": float((a == b).mean()),
        "kappa": kappa(a, b, classes),
        "both_wrong": int((~right_a & ~right_b).sum()),
    }
