"""A report folder: scores.json, confusion.png, predictions.csv and a short report.md."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from emotiw_keras.files import atomic_path, write_atomic


@dataclass(frozen=True)
class Predictions:
    """What a model said about each image of a split, unreadable images included.

    Attributes:
        labels: the class names, in the order of the columns of `probabilities`.
        paths: name of each image inside its source, n of them.
        status: "ok", or why the image could not be read.
        truth: int (n,), the true class; -1 where there is none.
        probabilities: float32 (n, classes), 0..1; NaN where the image could not be read.
    """

    labels: tuple[str, ...]
    paths: Sequence[str]
    status: Sequence[str]
    truth: np.ndarray
    probabilities: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """int (n,), the most probable class; -1 where the image could not be read."""
        read = ~np.isnan(self.probabilities).any(axis=1)
        return np.where(read, np.where(read[:, None], self.probabilities, 0.0).argmax(axis=1), -1)


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
    side = max(4.0, 0.72 * k + 1.2)
    figure = Figure(figsize=(2 * side + 1.2, side + 0.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    size = float(np.clip(11.5 - 0.25 * k, 5.0, 10.0))
    for column, (values, name) in enumerate(((counts, "images"), (rates, "share of the true class"))):
        axes = figure.add_subplot(1, 2, column + 1)
        # Both panels are coloured by the rate: coloured by the count, a large class would hide how the small ones fare.
        axes.imshow(rates, cmap="Blues", vmin=0.0, vmax=1.0)
        axes.set_xticks(range(k), labels, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(k), [f"{label} ({int(total)})" for label, total in zip(labels, totals[:, 0], strict=True)])
        axes.set_xlabel("predicted")
        if column == 0:
            axes.set_ylabel("true (images)")
        axes.set_title(name, fontsize=11)
        axes.set_xticks(np.arange(k + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(k + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1.5)
        axes.tick_params(which="both", length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        for row in range(k):
            for cell in range(k):
                text = f"{int(values[row, cell])}" if column == 0 else f"{100 * values[row, cell]:.0f} %"
                if totals[row, 0] == 0 and column == 1:
                    text = "-"
                tone = "white" if rates[row, cell] > 0.55 else "#57606a" if values[row, cell] == 0 else "black"
                weight = "bold" if row == cell else "normal"
                axes.text(cell, row, text, ha="center", va="center", color=tone, fontsize=size, fontweight=weight)
    if title:
        figure.suptitle(title, fontsize=12)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def predictions_csv(predictions: Predictions) -> str:
    """The table `path,label,predicted,<one probability per class>,status` as CSV text, one line per image."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label", "predicted", *predictions.labels, "status"])
    names = (*predictions.labels, "")  # index -1 is no class
    for path, truth, predicted, row, status in zip(
        predictions.paths,
        predictions.truth,
        predictions.predicted,
        predictions.probabilities,
        predictions.status,
        strict=True,
    ):
        figures = ["" if np.isnan(value) else f"{value:.6g}" for value in row]
        writer.writerow([path, names[int(truth)], names[int(predicted)], *figures, status])
    return text.getvalue()


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def figures_table(result: dict[str, Any]) -> str:
    """The main figures as a Markdown table, all images beside the leak-free ones."""
    leak_free = result.get("leak_free")
    columns = [result] if leak_free is None else [result, leak_free]
    rows: list[tuple[str, list[str]]] = [
        ("images scored / asked for", [f"{c['n_found']} / {c['n']}" for c in columns]),
        ("accuracy", [_percent(c["accuracy"]) for c in columns]),
        ("95 % interval", [" - ".join(_percent(end) for end in c["accuracy_ci95"]) for c in columns]),
        ("macro F1", [f"{c['macro_f1']:.3f}" for c in columns]),
        ("balanced accuracy", [_percent(c["balanced_accuracy"]) for c in columns]),
        ("ABAW score", [f"{c['abaw_score']:.3f}" for c in columns]),
        ("calibration error (ECE)", [f"{c['ece']:.3f}" for c in columns]),
        ("log loss", [f"{c['log_loss']:.3f}" for c in columns]),
    ]
    head = ["all images", "leak-free"][: len(columns)]
    lines = [f"| {'':<25} | " + " | ".join(f"{name:>17}" for name in head) + " |"]
    lines.append(f"|{'-' * 27}|" + "|".join("-" * 18 + ":" for _ in head) + "|")
    lines += [f"| {name:<25} | " + " | ".join(f"{value:>17}" for value in values) + " |" for name, values in rows]
    return "\n".join(lines)


def per_class_table(result: dict[str, Any]) -> str:
    """Precision, recall, F1 and number of images of each class as a Markdown table."""
    width = max(5, *(len(label) for label in result["labels"]))
    lines = [
        f"| {'class':<{width}} | precision | recall |    F1 | images |",
        f"|{'-' * (width + 2)}|----------:|-------:|------:|-------:|",
    ]
    for label, row in result["per_class"].items():
        rates = f"{row['precision']:>9.3f} | {row['recall']:>6.3f} | {row['f1']:>5.3f}"
        lines.append(f"| {label:<{width}} | {rates} | {row['support']:>6} |")
    return "\n".join(lines)


def report_markdown(result: dict[str, Any], heading: str) -> str:
    """A short report in Markdown: what was scored, the figures, what to be careful about."""
    parts = [f"# {heading}", f"Split: {result['split']}.", figures_table(result)]
    if result["selected_on"]:
        parts.append("The run chose its best epoch on these images: the figures are on the hopeful side.")
    if result["leak_free"] is None:
        parts.append("There are no leak-free figures: every image also stands in a train or val split that the run was given.")
    else:
        left_out = result["n"] - result["leak_free"]["n"]
        parts.append(f"Leak-free leaves out {left_out} images that also stand in a train or val split that the run was given.")
    parts += ["## Classes", per_class_table(result), "![confusion matrix](confusion.png)"]
    unreadable = result["n"] - result["n_found"]
    if unreadable:
        parts.append(f"{unreadable} images could not be read; `predictions.csv` says why (column `status`).")
    return "\n\n".join(parts) + "\n"


def write_report(folder: str | os.PathLike[str], result: dict[str, Any], predictions: Predictions, heading: str) -> list[Path]:
    """Write scores.json, confusion.png, predictions.csv and report.md into `folder`, each in one step.

    Args:
        folder: made if missing; files of these four names are replaced, nothing else is touched.
        result: what `emotiw_keras.evaluation.evaluate.evaluate` returns.
        predictions: the rows of predictions.csv.
        heading: the first line of the report, such as "runs/ng on faces.zip".

    Returns:
        The four paths written.

    Raises:
        OutputError: the folder cannot be written, or the disk is full.
    """
    folder = Path(folder)
    paths = [folder / name for name in ("scores.json", "confusion.png", "predictions.csv", "report.md")]
    write_atomic(paths[0], json.dumps(result, indent=2) + "\n")
    title = f"{heading}: accuracy {_percent(result['accuracy'])} of {result['n_found']} images"
    confusion_png(result["confusion"], result["labels"], paths[1], title=title)
    write_atomic(paths[2], predictions_csv(predictions))
    write_atomic(paths[3], report_markdown(result, heading))
    return paths
