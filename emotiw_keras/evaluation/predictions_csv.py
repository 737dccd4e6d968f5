"""Predictions as a CSV file: what a model said about each image."""

from __future__ import annotations

import csv
import io

import numpy as np

from emotiw_keras.evaluation.assessment import Predictions
from emotiw_keras.text import sheet_cell


def predictions_csv(predictions: Predictions) -> str:
    """The table `path,label,predicted,<one probability per class>,status` as CSV text, one line per image."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = (*map(sheet_cell, predictions.labels), "")  # index -1 is no class
    writer.writerow(["path", "label", "predicted", *names[:-1], "status"])
    for path, truth, predicted, row, status in zip(
        predictions.paths,
        predictions.truth,
        predictions.predicted,
        predictions.probabilities,
        predictions.status,
        strict=True,
    ):
        figures = ["" if np.isnan(value) else f"{value:.6g}" for value in row]
        writer.writerow([sheet_cell(path), names[int(truth)], names[int(predicted)], *figures, sheet_cell(status)])
    return text.getvalue()
