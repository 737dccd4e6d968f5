"""What answers are worth where people agree, and once their probabilities are calibrated on other images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import log_loss

from emotiw_keras.data.columns import pick
from emotiw_keras.data.votes import AGREED, agreed
from emotiw_keras.errors import DataError
from emotiw_keras.evaluation.metrics import at_temperature, best_temperature, expected_calibration_error, wilson_interval

if TYPE_CHECKING:
    from emotiw_keras.evaluation.assessment import Assessment, Predictions
    from emotiw_keras.runs import Run


def by_agreement(predictions: Predictions, votes: np.ndarray) -> dict[str, Any]:
    """How often the answer is the majority's where at least `AGREED` of ten people gave it, and where fewer did.

    Args:
        predictions: their truth is the majority of the votes.
        votes: int (n, 10), of each image.

    Returns:
        "majority": the images in all; "agreed" and "others": n, accuracy, accuracy_ci95 (None without images), and with
        "agreed" the votes that it takes.
    """
    read = predictions.readable
    right, certain = predictions.predicted == predictions.truth, agreed(votes)

    def of(kept: np.ndarray) -> dict[str, Any]:
        n, hits = int(kept.sum()), int(right[kept].sum())
        return {"n": n} | ({"accuracy": hits / n, "accuracy_ci95": list(wilson_interval(hits, n))} if n else {"accuracy": None})

    return {"majority": int(read.sum()), "agreed": {"votes": AGREED, **of(read & certain)}, "others": of(read & ~certain)}


def new_to(run: Run, assessment: Assessment) -> np.ndarray:
    """bool (n,): the images of an assessment that can be read and that the run, or what it came from, had not trained on."""
    trained = {row["pixel_hash"] for row in run.each_row() if row["status"] == "train"}
    hashes = pick(assessment.faces.pixel_hash, assessment.indices)
    return assessment.predictions.readable & np.array([pixel_hash not in trained for pixel_hash in hashes])


def calibrated(predictions: Predictions, val: Assessment) -> dict[str, Any]:
    """The figures that a temperature changes, once it is chosen on validation images that were not trained on.

    Args:
        predictions: the answers to score.
        val: those on the validation images.

    Returns:
        temperature, chosen_on, images (that it was chosen on), ece, log_loss.

    Raises:
        DataError: too few images to choose on.
    """
    chosen = new_to(val.run, val)
    if chosen.sum() < 2 * len(predictions.labels):
        raise DataError(
            f"split 'val' of {val.question.source} has {int(chosen.sum())} images that can be read and that the run was not "
            "trained on, too few to choose a temperature"
        )
    temperature = best_temperature(val.predictions.truth[chosen], val.predictions.probabilities[chosen])
    read = predictions.readable
    truth, answers = predictions.truth[read], at_temperature(predictions.probabilities[read], temperature)
    return {
        "temperature": temperature,
        "chosen_on": "val",
        "images": int(chosen.sum()),
        "ece": expected_calibration_error(truth, answers),
        "log_loss": float(log_loss(truth, answers, labels=range(len(predictions.labels)))),
    }
