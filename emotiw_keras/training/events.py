"""The history of a run as TensorBoard events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SCALARS = ("loss", "accuracy", "val_loss", "val_accuracy", "val_macro_f1", "learning_rate", "images_per_second")


def write_events(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one event file per stage from the rows of the history; earlier event files of the run are replaced.

    Args:
        folder: the run's `events` folder.
        rows: rows of history.csv.
    """
    import tensorflow as tf

    for stage in dict.fromkeys(row["stage"] for row in rows):
        place = folder / stage
        for old in place.glob("events.out.tfevents.*"):
            old.unlink()
        writer = tf.summary.create_file_writer(str(place))
        with writer.as_default():
            for row in rows:
                if row["stage"] == stage:
                    metrics = [name for name in row if name not in (*SCALARS, "stage", "epoch", "seconds", "val_macro_f1")]
                    for name in (*SCALARS, *metrics):
                        if row.get(name) is not None:
                            tf.summary.scalar(name, row[name], step=row["epoch"])
        writer.close()
