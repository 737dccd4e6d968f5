"""Predictions as a CSV file: what a model said about each image."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence

import numpy as np

from emotiw_keras.evaluation.assessment import Predictions
from emotiw_keras.text import csv_text, sheet_cell


def predictions_csv(predictions: Predictions) -> str:
    """The table `path,label,predicted,<one probability per class>,status,subject` as CSV text, one line per image."""
    names = (*map(sheet_cell, predictions.labels), "")  # index -1 is no class
    rows: list[list[str]] = [["path", "label", "predicted", *names[:-1], "status", "subject"]]
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


def read_predictions(file: str | os.PathLike[str], labels: Sequence[str]) -> Predictions:
    """What `predictions_csv` wrote of a run with these labels."""
    with open(file, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    truth = np.array([labels.index(row["label"]) if row["label"] else -1 for row in rows])
    probabilities = np.array([[float(row[label] or "nan") for label in labels] for row in rows], np.float32)
    subject = [row.get("subject") or "" for row in rows]  # a file of before has none
    paths, status = [row["path"] for row in rows], [row["status"] for row in rows]
    return Predictions(tuple(labels), paths, status, truth, probabilities, subject if any(subject) else ())
