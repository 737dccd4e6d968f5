"""A cross-validation as one result: every image answered by the run that has not been given it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from emotiw_keras.errors import DataError, UsageError
from emotiw_keras.evaluation.assessment import Assessment, Predictions, figures
from emotiw_keras.evaluation.calibration import by_agreement
from emotiw_keras.evaluation.near_seen import NearSeen, least_covered
from emotiw_keras.evaluation.run_splits import in_place_of_folds
from emotiw_keras.text import number_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emotiw_keras.fold_runs import FoldRuns
    from emotiw_keras.runs import Run

FOLD_FIGURES = ("n", "n_found", "persons", "accuracy", "macro_f1")


def assess_folds(
    folds: FoldRuns, assess: Callable[[Run], Assessment], split: str = "test", limit: int | None = None
) -> Assessment:
    """The pooled answers of all folds.

    Args:
        folds: the runs.
        assess: scores one of them on the test split that is its fold.
        split, limit: as asked for; there is only the test split, whole.

    Returns:
        An assessment whose predictions are those of all folds and whose `result` has beside the usual figures `folds`:
        `FOLD_FIGURES` of each; with votes also `votes`.

    Raises:
        UsageError: another split, or a limit.
        DataError: an image in the folds of two runs, as in data that have a test split of their own.
    """
    if split != "test" or limit is not None:
        asked = f"split {split!r}" if split != "test" else f"limit {limit}"
        raise UsageError(
            f"{asked} of {folds.path}: a cross-validation is scored on all its folds; one run is {folds.runs[0].path}"
        )
    parts: list[Assessment] = []
    for run in folds.runs:
        parts.append(assess(run))
        if len(parts) == 2 and parts[0].predictions.paths == parts[1].predictions.paths:
            raise DataError(
                f"{parts[0].question.source} has a test split of its own, so that each fold of {folds.path} is asked about "
                f"the same {number_of(len(parts[0].predictions.paths), 'images')}; {in_place_of_folds(folds.runs[0])}"
            )
    predictions = _pooled([each.predictions for each in parts], folds)
    seen = np.concatenate([each.seen for each in parts])
    selected_on = any(each.result["selected_on"] for each in parts)
    near = _near([each.near for each in parts])
    question = parts[0].question
    result = figures(predictions, seen, question, selected_on=selected_on, near=None if near is None else near.near)
    result["folds"] = [
        {"run": run.name, **{key: each.result[key] for key in FOLD_FIGURES}}
        for run, each in zip(folds.runs, parts, strict=True)
    ]
    votes = [each.faces.votes[each.indices] for each in parts if each.faces.votes is not None]
    if votes:
        result["votes"] = by_agreement(predictions, np.concatenate(votes))
    indices = np.concatenate([each.indices for each in parts])
    return replace(
        parts[0], result=result, predictions=predictions, seen=seen, indices=indices, near=near, folds=tuple(parts),
        folder=folds.path,
    )  # fmt: skip


def _pooled(parts: Sequence[Predictions], folds: FoldRuns) -> Predictions:
    first = parts[0]
    paths = [path for each in parts for path in each.paths]
    twice = len(paths) - len(set(paths))
    if twice or any(each.labels != first.labels for each in parts):
        why = f"{twice:,} images are in the test folds of two of its runs" if twice else "its runs know different labels"
        raise DataError(f"{folds.path}: {why}; expected runs of one `emotiw fit --folds`")
    columns: dict[str, Any] = {
        key: [value for each in parts for value in (getattr(each, key) or [""] * len(each.paths))]
        for key in ("status", "subject")
    }
    truth, probabilities = (np.concatenate([getattr(each, key) for each in parts]) for key in ("truth", "probabilities"))
    subject = columns["subject"] if any(columns["subject"]) else ()
    return Predictions(first.labels, paths, columns["status"], truth, probabilities, subject)


def _near(parts: Sequence[NearSeen | None]) -> NearSeen | None:
    """Of all folds; None where it is not known of one."""
    known = [each for each in parts if each is not None]
    if len(known) < len(parts):
        return None
    least = least_covered(known)
    order = np.argsort(-np.concatenate([each.correlation for each in known]), kind="stable")
    return NearSeen(
        np.concatenate([each.near for each in known]),
        np.concatenate([each.pairs for each in known])[order],
        np.concatenate([each.correlation for each in known])[order],
        least.there,
        least.given,
    )
