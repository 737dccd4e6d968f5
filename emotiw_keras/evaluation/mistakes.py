"""The most confident mistakes, and where the network looked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emotiw_keras.errors import ModelError
from emotiw_keras.evaluation.assessment import Assessment
from emotiw_keras.labels import label_columns

SIDE = 144  # pixels of each image in a page


@dataclass(frozen=True)
class Mistake:
    """One wrong answer.

    Attributes:
        path: the image's name inside its source.
        truth: the class it has.
        predicted: the class it was given.
        confidence: probability of that class, 0..1.
        of_truth: probability of the right class.
        face: uint8 (SIDE, SIDE, 1 or 3).
        heat: the face under its LayerCAM for the predicted class, uint8 (SIDE, SIDE, 3); None where there is none.
    """

    path: str
    truth: str
    predicted: str
    confidence: float
    of_truth: float
    face: np.ndarray
    heat: np.ndarray | None


def most_confident(assessment: Assessment, count: int) -> np.ndarray:
    """Rows of at most `count` wrong answers, the most confident first: int (n,)."""
    predictions = assessment.predictions
    wrong = np.flatnonzero(predictions.readable & (predictions.predicted != predictions.truth))
    confidence = predictions.probabilities[wrong].max(axis=1)
    return wrong[np.argsort(-confidence, kind="stable")[:count]]


def mistakes(assessment: Assessment, count: int) -> tuple[list[Mistake], str | None]:
    """The most confident mistakes as images; for an ensemble with the mean of its members' heat maps.

    Returns:
        The mistakes, and why they have no LayerCAM, or None if they have.
    """
    from emotiw_keras.data.resize import resize
    from emotiw_keras.gradcam import overlay

    predictions, rows = assessment.predictions, most_confident(assessment, count)
    if not len(rows):
        return [], None
    faces = assessment.faces.pixels.gather(assessment.indices[rows])
    heats, reason = None, None
    try:
        heats = _heat(assessment, rows)
    except ModelError as error:
        reason = str(error)
    found = []
    for number, row in enumerate(rows):
        probabilities, truth = predictions.probabilities[row], int(predictions.truth[row])
        predicted = int(predictions.predicted[row])
        found.append(
            Mistake(
                predictions.paths[row],
                predictions.labels[truth],
                predictions.labels[predicted],
                float(probabilities[predicted]),
                float(probabilities[truth]),
                resize(faces[number], SIDE, SIDE),
                None if heats is None else overlay(faces[number], heats[number], SIDE),
            )
        )
    return found, reason


def _heat(assessment: Assessment, rows: np.ndarray) -> np.ndarray:
    """LayerCAM for the predicted classes: float32 (n, SIDE, SIDE), 0..1."""
    from emotiw_keras.gradcam import LayerCam, heat_of_faces, resized_heat

    predictions = assessment.predictions
    if assessment.folds:
        return _heat_of_folds(assessment, rows)
    heats = []
    for each in assessment.members or (assessment,):
        columns = label_columns(each.predictions.labels, predictions.labels)
        assert columns is not None  # `ensemble` has matched them
        order = {path: i for i, path in enumerate(each.predictions.paths)}
        own = np.array([order[predictions.paths[row]] for row in rows])
        classes = np.array([columns[predictions.predicted[row]] for row in rows])
        cam, face_input = LayerCam(each.run.build()), each.run.face_input()
        heat = heat_of_faces(cam, face_input, each.faces.pixels.gather(each.indices[own]), classes)
        heats.append(resized_heat(heat, SIDE))
    return np.mean(heats, axis=0)


def _heat_of_folds(assessment: Assessment, rows: np.ndarray) -> np.ndarray:
    """Of a cross-validation: what the run shows that answered."""
    found = np.zeros((len(rows), SIDE, SIDE), np.float32)
    first = 0
    for each in assessment.folds:
        last = first + len(each.predictions.paths)
        mine = np.flatnonzero((rows >= first) & (rows < last))
        if len(mine):
            found[mine] = _heat(each, rows[mine] - first)
        first = last
    return found
