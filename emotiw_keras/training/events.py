"""The history of a run as TensorBoard events."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emotiw_keras.errors import RunError
from emotiw_keras.plain_facts import plain_name

SCALARS = ("loss", "accuracy", "val_loss", "val_accuracy", "val_macro_f1", "learning_rate", "images_per_second")


def write_events(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one event file per stage from the rows of the history; earlier event files of the run are replaced.

    Args:
        folder: the run's `events` folder.
        rows: rows of history.csv.

    Raises:
        RunError: a stage is not called as a folder can be.
    """
    import tensorflow as tf

    for stage in dict.fromkeys(row["stage"] for row in rows):
        if not plain_name(stage):
            raise RunError(f"{folder.parent} is damaged: its history has a stage {stage!r:.60}")
        place = folder / stage
        for old in place.glob("events.out.tfevents.*"):
            old.unlink()
        place.mkdir(parents=True, exist_ok=True)
        now = time.time()
        # Records of the format itself: `tf.summary.scalar` takes half a millisecond for each, and all are written every epoch.
        with tf.io.TFRecordWriter(str(place / f"events.out.tfevents.{int(now)}")) as writer:
            writer.write(tf.compat.v1.Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
            for row in rows:
                if row["stage"] == stage:
                    metrics = [name for name in row if name not in (*SCALARS, "stage", "epoch", "seconds")]
                    values = [
                        tf.compat.v1.Summary.Value(tag=name, simple_value=row[name])
                        for name in (*SCALARS, *metrics)
                        if row.get(name) is not None
                    ]
                    event = tf.compat.v1.Event(wall_time=now, step=row["epoch"], summary=tf.compat.v1.Summary(value=values))
                    writer.write(event.SerializeToString())
