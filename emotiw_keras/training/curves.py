"""Learning curves of a run as a PNG: loss and accuracy over the epochs of all stages."""

from __future__ import annotations

import os
from itertools import groupby

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from emotiw_keras.charts import LARGEST
from emotiw_keras.files import write_encoded
from emotiw_keras.history import Epoch, read_history, steps

TRAIN, VAL, DROP = "#0969da", "#bc4c00", "#8c959f"
SHADES = ("#f6f8fa", "#ddf4ff")


def _draw(axes: Axes, epochs: list[Epoch], measure: str, legend: str) -> None:
    start = 0
    for number, (stage, group) in enumerate(groupby(epochs, key=lambda epoch: epoch.stage)):
        part = list(group)
        x = [start + i + 1 for i in range(len(part))]
        axes.axvspan(start + 0.5, start + len(part) + 0.5, color=SHADES[number % 2], zorder=0)
        axes.text(
            start + len(part) / 2 + 0.5,
            1.015,
            stage,
            transform=axes.get_xaxis_transform(),
            ha="center",
            va="bottom",
            fontsize=9,
        )
        named = number == 0
        # an axis ends where floating-point numbers do, and Matplotlib wants room beyond it
        train = [min(max(getattr(epoch, measure), -LARGEST), LARGEST) for epoch in part]
        val = [min(max(getattr(epoch, f"val_{measure}"), -LARGEST), LARGEST) for epoch in part]
        axes.plot(x, train, color=TRAIN, marker="o", markersize=3, label="train" if named else None)
        axes.plot(x, val, color=VAL, marker="s", markersize=3, label="val" if named else None)
        for number_in_stage, rate in steps([epoch.learning_rate for epoch in part]):
            place = start + number_in_stage + 0.5
            axes.axvline(place, color=DROP, linestyle="--", linewidth=1.5)
            height, align = (0.98, "top") if measure == "accuracy" else (0.02, "bottom")
            where = axes.get_xaxis_transform()
            axes.text(place, height, f" lr {rate:.3g} ", transform=where, rotation=90, va=align, fontsize=7)
        start += len(part)
    axes.set_xlim(0.5, len(epochs) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch, counted over all stages")
    axes.set_title(measure, fontsize=11, pad=20)
    axes.grid(axis="y", color="#d0d7de", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=9, loc=legend)


def learning_curves(history_csv: str | os.PathLike[str], png: str | os.PathLike[str]) -> None:
    """Draw loss and accuracy, train and val, the stages shaded and named, each drop of the learning rate marked.

    Args:
        history_csv: a run's history.csv with the columns stage, epoch, learning_rate, loss, accuracy, val_loss and
            val_accuracy (more are ignored); an empty figure leaves a gap.
        png: the image to write, in one step.

    Raises:
        DataError: the history is missing, damaged or empty.
        OutputError: the image cannot be written.

    Example:
        >>> learning_curves("runs/ng/history.csv", "runs/ng/curves.png")  # doctest: +SKIP
    """
    epochs = read_history(history_csv)
    figure = Figure(figsize=(11, 4.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    _draw(figure.add_subplot(1, 2, 1), epochs, "loss", "upper right")
    accuracy = figure.add_subplot(1, 2, 2)
    _draw(accuracy, epochs, "accuracy", "lower right")
    accuracy.set_ylim(0.0, 1.0)
    write_encoded(png, lambda file: figure.savefig(file, format="png", metadata={"Software": None}))
