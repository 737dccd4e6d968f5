"""`emotiw predict`: the expression of each face, one row per face as they come."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from emotiw_keras.errors import ModelError, UsageError

if TYPE_CHECKING:
    from emotiw_keras.serving.inputs import Picture
    from emotiw_keras.serving.predictor import Predictor

SOME_UNREADABLE = 3
Row = dict[str, Any]


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--model", metavar="RUN", help="Run folder of the network to use.")
@click.option(
    "--faces",
    type=click.Choice(["detect", "whole"]),
    default="whole",
    show_default=True,
    help="whole: each picture is one face, already cropped. detect: find the faces (not in this version).",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV with a header.")
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="Faces computed at once.")
@click.pass_context
def predict(
    ctx: click.Context,
    inputs: tuple[str, ...],
    model: str | None,
    faces: str,
    as_json: bool,
    as_csv: bool,
    batch_size: int,
) -> None:
    """Read the expression of each face in INPUT: picture files, folders, zips or glob patterns.

    Rows go to standard output as they come. An input that cannot be read is a row with its error, named on standard
    error too, and the exit code is 3.

    \b
    Examples:
      emotiw predict face.png --model runs/first
      emotiw predict faces/ more.zip --model runs/first --csv > rows.csv
    """
    if as_json and as_csv:
        raise UsageError("--json and --csv exclude each other; choose one")
    if faces == "detect":
        raise UsageError("finding faces in photos is not available in this version; give face crops and pass --faces whole")
    if model is None:
        raise ModelError(
            "no model ships with this version; name a run folder with --model RUN (emotiw fit --out RUN makes one)"
        )

    from emotiw_keras.serving.inputs import read_pictures
    from emotiw_keras.serving.predictor import Predictor

    predictor = Predictor(model, batch_size=batch_size)
    show = _json_line if as_json else _csv_writer(predictor.labels) if as_csv else _readable_line
    unreadable = 0
    for row in _rows(predictor, read_pictures(inputs)):
        click.echo(show(row))
        if row["error"] is not None:
            unreadable += 1
            click.echo(f"emotiw: cannot read {row['path']}: {row['error']}", err=True)
    if unreadable:
        ctx.exit(SOME_UNREADABLE)


def _rows(predictor: Predictor, pictures: Iterator[Picture]) -> Iterator[Row]:
    """Rows in the order of the pictures; pictures wait until a batch is full, so memory holds one batch at most."""
    waiting: list[Picture] = []
    for picture in pictures:
        waiting.append(picture)
        if sum(each.pixels is not None for each in waiting) == predictor.batch_size or len(waiting) >= 4 * predictor.batch_size:
            yield from _batch(predictor, waiting)
            waiting = []
    yield from _batch(predictor, waiting)


def _batch(predictor: Predictor, pictures: list[Picture]) -> Iterator[Row]:
    probabilities = iter(predictor.predict([each.pixels for each in pictures if each.pixels is not None]))
    for picture in pictures:
        yield _row(picture, predictor.labels, None if picture.pixels is None else next(probabilities))


def _row(picture: Picture, labels: tuple[str, ...], probabilities: Any) -> Row:
    row: Row = {"path": picture.path, "frame": None, "face": None, "box": None, "eyes": None, "detector_score": None}
    if picture.pixels is None:
        return {**row, "label": None, "probabilities": None, "error": picture.error}
    height, width = picture.pixels.shape[:2]
    named = {label: float(value) for label, value in zip(labels, probabilities, strict=True)}
    row.update(face=0, box=[0, 0, width, height])
    return {**row, "label": labels[int(probabilities.argmax())], "probabilities": named, "error": None}


def _json_line(row: Row) -> str:
    return json.dumps(row)


def _readable_line(row: Row) -> str:
    if row["error"] is not None:
        return f"{row['path']}: error: {row['error']}"
    ranked = sorted(row["probabilities"].items(), key=lambda item: -item[1])
    rest = ", ".join(f"{label} {value:.2f}" for label, value in ranked[1:3])
    return f"{row['path']}: {row['label']} {ranked[0][1]:.2f} ({rest})"


def _csv_writer(labels: tuple[str, ...]) -> Callable[[Row], str]:
    columns = ["path", "frame", "face", "x", "y", "width", "height", "detector_score", "label", *labels, "error"]
    first = True

    def line(values: list[Any]) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="").writerow(values)
        return text.getvalue()

    def show(row: Row) -> str:
        nonlocal first
        box = row["box"] or [None] * 4
        chances = [None if row["probabilities"] is None else row["probabilities"][label] for label in labels]
        values = [
            row["path"],
            row["frame"],
            row["face"],
            *box,
            row["detector_score"],
            row["label"],
            *chances,
            row["error"],
        ]
        header = line(columns) + "\n" if first else ""
        first = False
        return header + line(values)

    return show
