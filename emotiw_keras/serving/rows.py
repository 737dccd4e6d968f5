"""Readings as the rows that `emotiw predict` prints: one per face, and one per image or frame without a face."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from emotiw_keras.sealed import json_text
from emotiw_keras.serving.readings import NO_FACE
from emotiw_keras.text import class_columns, sheet_cell, shown

if TYPE_CHECKING:
    from emotiw_keras.serving.readings import ImageReading

Row = dict[str, Any]
Show = Callable[[Row], str]


def rows_of(reading: ImageReading) -> Iterator[Row]:
    """Rows with the keys path, frame, seconds, face, box, eyes, detector_score, label, probabilities, uncertain, derived,
    doubt, error."""
    image = reading.image
    place = {"path": image.path, "frame": image.frame, "seconds": image.seconds}
    for face in reading.faces:
        yield {
            **place,
            "face": face.number,
            "box": [_pixels(value) for value in face.box],
            "eyes": None if face.eyes is None else [[_pixels(value) for value in eye] for eye in face.eyes],
            "detector_score": None if face.score is None else round(face.score, 4),
            "label": face.label,
            "probabilities": face.probabilities,
            "uncertain": face.uncertain,
            "derived": face.derived,
            "doubt": face.doubt,
            "error": None,
        }
    if not reading.faces:
        keys = ("face", "box", "eyes", "detector_score", "label", "probabilities", "uncertain", "derived", "doubt")
        nothing: Row = dict.fromkeys(keys)
        yield {**place, **nothing, "error": reading.error}


def _pixels(value: float) -> float:
    return value if isinstance(value, int) else round(float(value), 2)


def json_line(row: Row) -> str:
    """One JSON object."""
    return json_text(row)


def readable_line(row: Row) -> str:
    """A line for people: the three most likely classes."""
    place = row["path"] + ("" if row["frame"] is None else f" frame {row['frame']}")
    if row["error"] is not None:
        return shown(f"{place}: {row['error']}" if row["error"] == NO_FACE else f"{place}: error: {row['error']}")
    ranked = sorted(row["probabilities"].items(), key=lambda item: -item[1])
    rest = ", ".join(f"{label} {value:.2f}" for label, value in ranked[1:3])
    doubt = "" if row["doubt"] is None else f", doubtful: {row['doubt']}"
    doubt = f", uncertain{doubt}" if row["uncertain"] else doubt
    return shown(f"{place}{_which(row)}: {row['label']} {ranked[0][1]:.2f} ({rest}){doubt}")


def _which(row: Row) -> str:
    if row["eyes"] is None:
        return ""
    x, y, width, height = (round(value) for value in row["box"])
    return f" face {row['face']} at {x},{y} {width}x{height}"


def csv_lines(labels: tuple[str, ...]) -> Show:
    """Lines of a CSV table with one column per class (`class_columns`); the header comes first."""
    before = ["path", "frame", "seconds", "face", "x", "y", "width", "height", "left_x", "left_y", "right_x", "right_y"]
    before += ["detector_score", "label"]
    after = ["uncertain", "derived_valence", "derived_arousal", "doubt", "error"]
    columns = [*before, *class_columns(labels, [*before, *after]), *after]
    first = True

    def line(values: list[Any]) -> str:
        text = io.StringIO()
        safe = [sheet_cell(value) if isinstance(value, str) else value for value in values]
        csv.writer(text, lineterminator="").writerow(safe)
        return text.getvalue()

    def show(row: Row) -> str:
        nonlocal first
        box = row["box"] or [None] * 4
        eyes = [value for eye in row["eyes"] for value in eye] if row["eyes"] else [None] * 4
        chances = [None if row["probabilities"] is None else row["probabilities"][label] for label in labels]
        uncertain = None if row["uncertain"] is None else str(row["uncertain"]).lower()
        affect = [None] * 2 if row["derived"] is None else [row["derived"][key] for key in ("valence", "arousal")]
        read = [row["detector_score"], row["label"], *chances, uncertain, *affect, row["doubt"], row["error"]]
        values = [row["path"], row["frame"], row["seconds"], row["face"], *box, *eyes, *read]
        header = line(columns) + "\n" if first else ""
        first = False
        return header + line(values)

    return show
