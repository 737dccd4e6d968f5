"""Predictions as a CSV file: what a model said about each image."""

from __future__ import annotations

import numpy as np

from emotiw_keras.evaluation.assessment import Predictions
from emotiw_keras.text import class_columns, csv_text, sheet_cell


def predictions_csv(predictions: Predictions) -> str:
    """The table `path,label,predicted,<one probability per class>,status,subject` as CSV text, one line per image; the columns
    of classes are called by `class_columns`."""
    names = (*map(sheet_cell, predictions.labels), "")  # index -1 is no class
    before, after = ["path", "label", "predicted"], ["status", "subject"]
    classes = class_columns(predictions.labels, [*before, *after])
    rows: list[list[str]] = [[*before, *map(sheet_cell, classes), *after]]
    for path, truth, predicted, probabilities, status, person in zip(
        predictions.paths,
        predictions.truth,
        predictions.predicted,
        predictions.probabilities,
        predictions.status,
        predictions.subject if len(predictions.subject) else [""] * len(predictions.paths),
        strict=True,
    ):
        figures = ["" if np.isnan(value) else f"{value:.6g}" for value in probabilities]
        told = (sheet_cell(status), sheet_cell(person))
        rows.append([sheet_cell(path), names[int(truth)], names[int(predicted)], *figures, *told])
    return csv_text(rows)
