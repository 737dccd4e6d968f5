"""A report folder: one page to read, and its figures, answers and images as files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from emotiw_keras.data.splits import stratified
from emotiw_keras.evaluation.assessment import Assessment
from emotiw_keras.evaluation.predictions_csv import predictions_csv
from emotiw_keras.files import local_path, write_atomic, write_encoded
from emotiw_keras.fonts import in_charts, plain_words
from emotiw_keras.html import MARK, Part, page, tag
from emotiw_keras.locking import sweep_beside
from emotiw_keras.reports import sections
from emotiw_keras.reports.near_page import NEAR_FILE, near_csv, near_section
from emotiw_keras.reports.prediction_sheet import Caption, contact_sheet
from emotiw_keras.reports.real_pictures import coverage, robust_section
from emotiw_keras.reports.score_tables import counted, percent
from emotiw_keras.reports.video_tables import per_video_csv
from emotiw_keras.run_view import training
from emotiw_keras.sealed import json_text
from emotiw_keras.text import number_of

SHEET_FACES = 48


MOST_WRITTEN = 50
"""Classes whose names and counts stand in the picture of a confusion matrix."""

LONGEST_NAME = 24
"""Letters of a class name that leave room for the matrix."""


def _cut(name: str) -> str:
    """Both ends of a long class name, of which classes may share either."""
    return name if len(name) <= LONGEST_NAME else f"{name[:13]}…{name[-10:]}"


@in_charts()
def confusion_png(
    confusion: Sequence[Sequence[int]], labels: Sequence[str], path: str | os.PathLike[str], title: str = ""
) -> None:
    """Draw a confusion matrix, counts on the left and rates within each true class on the right.

    Args:
        confusion: counts, rows are the truth, columns what was predicted.
        labels: the class names in that order.
        path: the PNG to write, in one step.
        title: a line above both panels.

    Raises:
        OutputError: the file cannot be written.
    """
    counts = np.asarray(confusion, dtype=np.float64)
    totals = counts.sum(axis=1, keepdims=True)
    rates = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    k = len(labels)
    labels, title = [plain_words(_cut(label)) for label in labels], plain_words(title)
    written = k <= MOST_WRITTEN  # beyond it a cell is its colour, and a class its number
    side = max(4.0, 0.72 * min(k, MOST_WRITTEN) + 1.2)
    figure = Figure(figsize=(2 * side + 1.2, side + 0.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    size = float(np.clip(11.5 - 0.25 * k, 5.0, 10.0))
    for column, (values, name) in enumerate(((counts, "images"), (rates, "share of the true class"))):
        axes = figure.add_subplot(1, 2, column + 1)
        # Both panels are coloured by the rate: coloured by the count, a large class would hide how the small ones fare.
        axes.imshow(rates, cmap="Blues", vmin=0.0, vmax=1.0)
        if written:
            axes.set_xticks(range(k), labels, rotation=40, ha="right", rotation_mode="anchor")
            axes.set_yticks(range(k), [f"{label} ({int(total)})" for label, total in zip(labels, totals[:, 0], strict=True)])
        axes.set_xlabel("predicted")
        if column == 0:
            axes.set_ylabel("true (images)")
        axes.set_title(name, fontsize=11)
        if written:
            axes.set_xticks(np.arange(k + 1) - 0.5, minor=True)
            axes.set_yticks(np.arange(k + 1) - 0.5, minor=True)
            axes.grid(which="minor", color="white", linewidth=1.5)
        axes.tick_params(which="both", length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        for row in range(k if written else 0):
            for cell in range(k):
                text = f"{int(values[row, cell])}" if column == 0 else f"{100 * values[row, cell]:.0f} %"
                if totals[row, 0] == 0 and column == 1:
                    text = "-"
                tone = "white" if rates[row, cell] > 0.55 else "#57606a" if values[row, cell] == 0 else "black"
                weight = "bold" if row == cell else "normal"
                axes.text(cell, row, text, ha="center", va="center", color=tone, fontsize=size, fontweight=weight)
    if title:
        figure.suptitle(title, fontsize=12)
    write_encoded(path, lambda file: figure.savefig(file, format="png", metadata={"Software": None}))


def report_page(assessment: Assessment) -> str:
    """The report as one HTML document that is self-contained."""
    asked, result = assessment.question, assessment.result
    runs = assessment.runs
    name = assessment.name
    parts: list[Part] = [
        tag("h1", f"{name} on {Path(asked.source).name}"),
        tag("p", f"Split {asked.split}, {counted(result)}, {len(result['labels'])} classes", class_="quiet"),
        sections.summary(assessment),
        sections.folds(assessment),
        tag("h2", "Classes"),
        sections.classes(assessment),
        sections.costs(assessment),
        tag("h2", "Calibration"),
        sections.calibration(assessment),
        coverage(assessment),
        robust_section(assessment),
        tag("h2", "The most confident mistakes"),
        sections.wrong_answers(assessment),
        near_section(assessment),
        tag("h2", "Training"),
    ]
    for run in runs:
        parts += [tag("h3", run.name) if len(runs) > 1 else None, training(run)]
    parts.append(tag("h2", "Images"))
    for run in runs:
        parts += [tag("h3", run.name) if len(runs) > 1 else None, sections.data(assessment, run)]
    parts += [tag("h2", "How to reproduce this"), sections.reproduce(assessment)]
    return page(f"{name}: {percent(result['accuracy'])}", *parts)


def _faces_png(assessment: Assessment, path: Path, title: str) -> None:
    predictions = assessment.predictions
    readable = np.flatnonzero(predictions.readable)
    shown = np.random.default_rng(0).permutation(stratified(readable, predictions.truth[readable], SHEET_FACES))
    labels, predicted = predictions.labels, predictions.predicted
    captions = [
        Caption(labels[predicted[i]], float(predictions.probabilities[i].max()), labels[predictions.truth[i]]) for i in shown
    ]
    faces = assessment.faces.pixels.gather(assessment.indices[shown])
    contact_sheet(faces, captions, path, columns=8, title=title)


FILES = {
    "scores.json": '"selected_on"', "predictions.csv": "", "confusion.png": "", "faces.png": "", "report.html": MARK,
    "videos.csv": "", NEAR_FILE: "",
}  # fmt: skip
"""What a report may consist of, as `check_replaced` takes it."""


def write_report(folder: str | os.PathLike[str], assessment: Assessment) -> list[Path]:
    """Write report.html, scores.json, predictions.csv, confusion.png, faces.png, videos.csv of videos, and
    near_duplicates.csv where there are any of what the run was given, into `folder`, each in one step.

    Args:
        folder: made if missing; files of these names are replaced, nothing else is touched.
        assessment: of a run, an ensemble or a cross-validation.

    Returns:
        The paths written.

    Raises:
        OutputError: the folder cannot be written, or the disk is full.
    """
    folder = local_path(folder)
    result = assessment.result
    scores, answers, confusion, faces, report, videos, near = (folder / name for name in FILES)
    for file in FILES:
        sweep_beside(folder / file)
    write_atomic(scores, json_text(result, indent=2) + "\n")
    heading = f"{assessment.name} on {Path(assessment.question.source).name}"
    title = f"{heading}: accuracy {percent(result['accuracy'])} of {number_of(result['n_found'], 'images')}"
    confusion_png(result["confusion"], result["labels"], confusion, title=title)
    write_atomic(answers, predictions_csv(assessment.predictions))
    _faces_png(assessment, faces, title)
    paths = [report, scores, answers, confusion, faces]
    if "per_video" in result:
        paths.append(videos)
        write_atomic(paths[-1], per_video_csv(result["per_video"]))
    if assessment.near is not None and len(assessment.near.pairs):
        paths.append(near)
        write_atomic(paths[-1], near_csv(assessment))
    write_atomic(report, report_page(assessment))
    return paths
