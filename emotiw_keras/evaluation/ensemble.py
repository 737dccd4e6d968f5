"""Several runs on the same images: matched by name and label, averaged into one answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from emotiw_keras.data.splits import group_ids
from emotiw_keras.errors import DataError, UsageError
from emotiw_keras.evaluation.assessment import Assessment, Predictions, figures
from emotiw_keras.evaluation.calibration import by_agreement
from emotiw_keras.evaluation.near_seen import NearSeen, least_covered
from emotiw_keras.labels import label_columns

if TYPE_CHECKING:
    from emotiw_keras.runs import Run


def check_labels(runs: Sequence[Run], names: Sequence[str]) -> None:
    """Refuse runs that do not know the same labels, before any image is read.

    Args:
        runs: two or more, with their heads chosen.
        names: what they are called.

    Raises:
        UsageError: their labels differ; where a head would make them the same, it is named.
    """
    first, *others = [run.labels for run in runs]
    for labels, name in zip(others, names[1:], strict=True):
        if label_columns(labels, first) is None:
            raise UsageError(
                f"{names[0]} and {name} know different labels: {', '.join(first)}, and {', '.join(labels)}; only runs with the "
                f"same labels can be compared{_way_out(runs, names)}"
            )


def _way_out(runs: Sequence[Run], names: Sequence[str]) -> str:
    """Which head gives all runs the same labels, where those answer with it that have it."""
    for head in dict.fromkeys(each.name for run in runs for each in run.heads):
        first, *others = [next((each.labels for each in run.heads if each.name == head), run.labels) for run in runs]
        if all(label_columns(labels, first) is not None for labels in others):
            having = [name for run, name in zip(runs, names, strict=True) if head in [each.name for each in run.heads]]
            return f": give --head {head}, which {' and '.join(having)} {'has' if len(having) == 1 else 'have'}"
    return ""


def matched(assessments: Sequence[Assessment]) -> list[Predictions]:
    """The predictions of all runs with the labels and images in the order of the first one.

    Raises:
        UsageError: the runs know different labels.
        DataError: they were asked about different images, or do not agree which class an image is.
    """
    first = assessments[0].predictions
    check_labels([each.run for each in assessments], [each.called for each in assessments])
    subject = _persons([each.predictions for each in assessments])
    result = []
    for each in assessments:
        predictions = each.predictions
        columns = label_columns(predictions.labels, first.labels)
        assert columns is not None, "labels are those of the run"
        order = {path: i for i, path in enumerate(predictions.paths)}
        if len(order) != len(first.paths) or not all(path in order for path in first.paths):
            raise DataError(
                f"{assessments[0].path} finds {len(first.paths)} images in split {each.question.split!r} and "
                f"{each.path} {len(predictions.paths)}, not the same ones: each knows the data's splits from its own "
                "training; use --split all, or data with splits of its own"
            )
        rows = [order[path] for path in first.paths]
        # Class ids of this run, in the order of the first run's; -1 (no class) stays.
        ids = np.append(np.argsort(columns), -1)
        truth = ids[predictions.truth[rows]]
        if not np.array_equal(truth, first.truth):
            place = int(np.flatnonzero(truth != first.truth)[0])
            raise DataError(f"{first.paths[place]} has another class for {each.path} than for {assessments[0].path}")
        status = [predictions.status[i] for i in rows]
        answers = predictions.probabilities[rows][:, columns]
        result.append(Predictions(first.labels, list(first.paths), status, truth, answers, subject))
    return result


def _persons(predictions: Sequence[Predictions]) -> list[str]:
    """The person of each image of the first one; empty if nobody is known. Persons to whom runs give the same image are one, so
    that the order of the runs does not count; they are called by all their names."""
    paths = [path for each in predictions for path in each.paths]
    known = [person for each in predictions for person in each.subject or [""] * len(each.paths)]
    of_run = np.repeat(np.arange(len(predictions)), [len(each.paths) for each in predictions])
    group = group_ids(paths, [person and f"{run} {person}" for run, person in zip(of_run, known, strict=True)]).tolist()
    names: dict[int, set[str]] = {}
    for number, person in zip(group, known, strict=True):
        names.setdefault(number, set()).update({person} - {""})
    return [" + ".join(sorted(names[number])) for number in group[: len(predictions[0].paths)]] if any(known) else []


def seen_by_any(assessments: Sequence[Assessment]) -> np.ndarray:
    """bool (n,), images of the first assessment that are in a train or val split of any of the runs."""
    paths = assessments[0].predictions.paths
    seen = {path for each in assessments for path, known in zip(each.predictions.paths, each.seen, strict=True) if known}
    return np.array([path in seen for path in paths], dtype=bool)


def _near_any(assessments: Sequence[Assessment]) -> NearSeen | None:
    """Near duplicates of what any of the runs was given; None where that is not known of one of them."""
    known = [each.near for each in assessments if each.near is not None]
    if len(known) < len(assessments):
        return None
    paths, near = assessments[0].predictions.paths, set[str]()
    for each, of in zip(assessments, known, strict=True):
        near |= {path for path, alike in zip(each.predictions.paths, of.near, strict=True) if alike}
    least = least_covered(known)
    whole = np.array([path in near for path in paths], dtype=bool)
    return replace(known[0], near=whole, there=least.there, given=least.given)


def ensemble(assessments: Sequence[Assessment]) -> Assessment:
    """The mean of the runs' probabilities, scored as one run.

    Leak-free figures leave out what any of them has seen; it was selected on these images if any of them was.

    Raises:
        UsageError: fewer than two runs, or different labels.
        DataError: different images.
    """
    if len(assessments) < 2:
        raise UsageError(f"an ensemble needs at least two runs; got {len(assessments)}")
    aligned = matched(assessments)
    first = assessments[0]
    mean = np.asarray(np.mean([each.probabilities for each in aligned], axis=0, dtype=np.float64), np.float32)
    crops = {each.question.crops for each in assessments}
    question = replace(first.question, crops=crops.pop() if len(crops) == 1 else None)
    predictions = replace(aligned[0], probabilities=mean)
    seen = seen_by_any(assessments)
    selected_on = any(each.result["selected_on"] for each in assessments)
    near = _near_any(assessments)
    alike = None if near is None else near.near
    result = figures(predictions, seen, question, selected_on=selected_on, near=alike)
    if first.faces.votes is not None:
        result["votes"] = by_agreement(predictions, first.faces.votes[first.indices])
    whole = replace(first, result=result, predictions=predictions, seen=seen, question=question, members=tuple(assessments))
    return replace(whole, near=near)
