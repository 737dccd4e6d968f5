"""`emotiw predict`: the expression of each face, one row per face as they come."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable

import click

from emotiw_keras.cli.console import put, tell
from emotiw_keras.errors import UsageError
from emotiw_keras.weights.shipped import DEFAULT

SOME_UNREADABLE = 3
_WINDOW = re.compile(r"(\d+(?:\.\d+)?)s|(\d+)")


def _window(ctx: click.Context, parameter: click.Parameter, value: str) -> Callable[[float], int]:
    """--smooth: from a film's frames a second to the frames that are averaged."""
    match = _WINDOW.fullmatch(value.strip())
    if match is None or float(match[1] or match[2]) == 0:
        raise click.BadParameter(f"{value!r}: expected seconds such as 0.5s, or a number of frames such as 12", ctx, parameter)
    if match[2]:
        return lambda rate: int(match[2])
    return lambda rate: max(1, round(float(match[1]) * rate))


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option(
    "--model", metavar="RUN", default=DEFAULT, show_default=True, help="Run folder of the network, or a model that ships."
)
@click.option(
    "--faces",
    type=click.Choice(["detect", "whole"]),
    default="detect",
    show_default=True,
    help="detect: find every face and align it. whole: each picture is one face, already cropped.",
)
@click.option("--detector", metavar="NAME", help="What finds the faces; a wrong name lists those there are.")
@click.option(
    "--min-face",
    type=click.FloatRange(min=10),
    metavar="PIXELS",
    help="Smallest faces to look for: 24 in photos and 34 in films if not given; more is faster in large pictures.",
)
@click.option("--turned", is_flag=True, help="Look at photos without a face again, turned by 90 and 180 degrees, and say so.")
@click.option(
    "--every",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="K",
    help="Of a film, find faces in every K-th frame and carry them by optical flow between.",
)
@click.option(
    "--smooth",
    default="1",
    callback=_window,
    metavar="SECONDS|FRAMES",
    help="Of a film, average each face's probabilities over its last 0.5s, or over its last 12 frames.",
)
@click.option("--annotate", metavar="DIR", help="Write copies with boxes, labels and bars into this new folder.")
@click.option("--explain", metavar="DIR", help="Write each face with its LayerCAM into this new folder.")
@click.option(
    "--crops",
    type=click.Choice(["1", "2", "10"]),
    help="Centre crop, the mean with its mirror image, or of ten; without it, what the run says (1 if nothing).",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV with a header.")
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="Faces computed at once.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "mixed_bfloat16", "mixed_float16"]),
    default="float32",
    show_default=True,
    help="What the network computes in; mixed_bfloat16 is faster on processors that know bfloat16.",
)
@click.pass_context
def predict(
    ctx: click.Context,
    inputs: tuple[str, ...],
    model: str,
    faces: str,
    detector: str | None,
    min_face: float | None,
    turned: bool,
    every: int,
    smooth: Callable[[float], int],
    annotate: str | None,
    explain: str | None,
    crops: str | None,
    as_json: bool,
    as_csv: bool,
    batch_size: int,
    precision: str,
) -> None:
    """Read the expression of each face in INPUT: pictures, films, folders, zips and glob patterns of them, numbered
    pictures (frames_%05d.jpg, as a film of 25 frames a second), or a camera (camera:0, until Ctrl-C).

    Rows go to standard output as they come, one per face, and one for each picture or frame without a face. In a film a
    face keeps its number while it is followed. An input that cannot be read is a row with its error, named on standard
    error too, and the exit code is 3. Annotated films have no sound.

    \b
    Examples:
      emotiw predict party.jpg --model runs/first
      emotiw predict photos/ more.zip --model runs/first --csv > rows.csv
      emotiw predict clip.mp4 --model runs/first --every 5 --smooth 0.5s --annotate seen --json > rows.jsonl
      emotiw predict crops/ --model runs/first --faces whole
      emotiw predict party.jpg --model runs/first --explain why
    """
    if as_json and as_csv:
        raise UsageError("--json and --csv exclude each other; choose one")
    if faces == "whole" and (detector is not None or every != 1 or min_face is not None or turned):
        raise UsageError("--faces whole finds no faces; leave out --detector, --every, --min-face and --turned")
    from emotiw_keras.hardware import keep_memory
    from emotiw_keras.serving.decoders import apart
    from emotiw_keras.serving.films import opened
    from emotiw_keras.serving.inputs import decoded, expand, read_inputs
    from emotiw_keras.serving.pipeline import Pipeline
    from emotiw_keras.serving.predictor import Predictor
    from emotiw_keras.serving.rows import csv_lines, json_line, readable_line, rows_of

    keep_memory()
    ctx.with_resource(apart(decoded, opened))  # while nothing else has been started
    predictor = Predictor(
        model,
        batch_size=batch_size,
        detector=detector,
        crops=None if crops is None else int(crops),
        precision=precision,
        min_face=min_face,
    )
    pipeline = Pipeline(
        predictor,
        whole=faces == "whole",
        every=every,
        smooth=smooth,
        keep_pixels=annotate is not None,
        keep_crops=explain is not None,
        turned=turned,
    )
    named = expand(inputs)
    show = json_line if as_json else csv_lines(predictor.labels) if as_csv else readable_line
    unreadable = 0
    with contextlib.ExitStack() as stack:
        annotator = explainer = None
        paths = [name for name in named if isinstance(name, str)]
        if annotate is not None:
            from emotiw_keras.serving.annotate import Annotator

            annotator = stack.enter_context(Annotator(annotate, paths))
        if explain is not None:
            from emotiw_keras.serving.explain import Explainer

            explainer = Explainer(predictor, explain, paths)

        def say(remark: str) -> None:
            tell(f"emotiw: {remark}")

        readings = stack.enter_context(contextlib.closing(pipeline.read(read_inputs(named, say), threads=True)))
        for reading in readings:
            for row in rows_of(reading):
                put(show(row))
            picture = reading.picture
            for note in picture.notes:
                say(f"{picture.path}: {note}")
            if reading.failed:
                unreadable += 1
                place = picture.path if picture.frame is None else f"{picture.path} frame {picture.frame}"
                say(f"cannot read {place}: {reading.error}")
            if annotator is not None:
                annotator.write(reading)
            if explainer is not None:
                explainer.write(reading)
    if unreadable:
        ctx.exit(SOME_UNREADABLE)
