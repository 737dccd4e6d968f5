"""What answers are worth where people agree, and once their probabilities are calibrated on other images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import log_loss

from emotiw_keras.data.columns import pick
from emotiw_keras.data.votes import AGREED, agreed
from emotiw_keras.errors import DataError
from emotiw_keras.evaluation.metrics import at_temperature, best_temperature, expected_calibration_error
from emotiw_keras.evaluation.significance import person_numbers, share_interval
from emotiw_keras.out_of_fold import FOLDS, read_out_of_fold

if TYPE_CHECKING:
    from emotiw_keras.evaluation.assessment import Assessment, Predictions
    from emotiw_keras.runs import Run


def by_agreement(predictions: Predictions, votes: np.ndarray) -> dict[str, Any]:
    """How often the answer is the majority's where at least `AGREED` of ten people gave it, and where fewer did.

    Args:
        predictions: their truth is the majority of the votes.
        votes: int (n, 10), of each image.

    Returns:
        "majority": the images in all; "agreed" and "others": n, accuracy, accuracy_ci95 (None without images; by person where
        persons are known), and with "agreed" the votes that it takes.
    """
    read = predictions.readable
    right, certain = predictions.predicted == predictions.truth, agreed(votes)
    persons = person_numbers(predictions.subject)

    def of(kept: np.ndarray) -> dict[str, Any]:
        if not kept.any():
            return {"n": 0, "accuracy": None}
        ends = share_interval(right[kept], None if persons is None else persons[kept])
        return {"n": int(kept.sum()), "accuracy": float(right[kept].mean()), "accuracy_ci95": list(ends)}

    return {"majority": int(read.sum()), "agreed": {"votes": AGREED, **of(read & certain)}, "others": of(read & ~certain)}


def new_to(run: Run, assessment: Assessment) -> np.ndarray:
    """bool (n,): the images of an assessment that can be read and that the run, or what it came from, had not trained on."""
    trained = {row["pixel_hash"] for row in run.each_row_as_trained() if row["status"] == "train"}
    hashes = pick(assessment.faces.pixel_hash, assessment.indices)
    return assessment.predictions.readable & np.array([pixel_hash not in trained for pixel_hash in hashes])


@dataclass(frozen=True)
class Unseen:
    """Answers about images that trained nothing, to calibrate by.

    Attributes:
        truth: int (n,).
        probabilities: float (n, classes).
        chosen_on: what they are: the name of a split, or `FOLDS`.
        rows: bool, of the assessment's images those that these are; None where they are answers of a cross-validation.
    """

    truth: np.ndarray
    probabilities: np.ndarray
    chosen_on: str
    rows: np.ndarray | None


def unseen(run: Run, assessment: Assessment) -> Unseen:
    """The images of an assessment that a run was not trained on. Where too few are left because its classifier was fitted again
    on its validation images: what it said of images in the folds that they were left out of.

    Raises:
        DataError: too few images.
    """
    rows, asked, found = new_to(run, assessment), assessment.question, assessment.predictions
    least = 2 * len(found.labels)
    if rows.sum() >= least:
        return Unseen(found.truth[rows], found.probabilities[rows], asked.split, rows)
    why = (
        f"split {asked.split!r} of {asked.source} has {int(rows.sum())} images that can be read and that the run was not "
        "trained on, too few to choose a temperature"
    )
    if "refitted" not in run.info:
        raise DataError(why)
    kept = read_out_of_fold(run) if asked.votes is None else None
    if kept is None or len(kept[0]) < least:
        lacking = "no answers of its cross-validation by votes" if asked.votes else "no answers of its cross-validation"
        raise DataError(
            f"{why}: its classifier was fitted again on its validation images (refit), and it keeps {lacking}; name images "
            "that are new to it, or train it anew"
        )
    return Unseen(*kept, FOLDS, None)


def calibrated(predictions: Predictions, val: Assessment) -> dict[str, Any]:
    """The figures that a temperature changes, once it is chosen on validation images that were not trained on. Of several crops
    the mean's logits are divided; a packed run divides those of each crop.

    Args:
        predictions: the answers to score.
        val: those on the validation images.

    Returns:
        temperature, chosen_on, images (that it was chosen on), ece, log_loss.

    Raises:
        DataError: too few images to choose on.
    """
    chosen = unseen(val.run, val)
    temperature = best_temperature(chosen.truth, chosen.probabilities)
    read = predictions.readable
    truth, answers = predictions.truth[read], at_temperature(predictions.probabilities[read], temperature)
    return {
        "temperature": temperature,
        "chosen_on": chosen.chosen_on,
        "images": len(chosen.truth),
        "ece": expected_calibration_error(truth, answers),
        "log_loss": float(log_loss(truth, answers, labels=range(len(predictions.labels)))),
    }
