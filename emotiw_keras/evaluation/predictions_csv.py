"""Predictions as a CSV file: what a model said about each image."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence

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


def read_predictions(file: str | os.PathLike[str], labels: Sequence[str]) -> Predictions:
    """What `predictions_csv` wrote of a run with these labels."""
    with open(file, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    truth = np.array([labels.index(row["label"]) if row["label"] else -1 for row in rows])
    probabilities = np.array([[float(row[label] or "nan") for label in labels] for row in rows], np.float32)
    return Predictions(tuple(labels), [row["path"] for row in rows], [row["status"] for row in rows], truth, probabilities)
