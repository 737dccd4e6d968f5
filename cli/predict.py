"""`emotiw predict`: the expression of each face, one row per face as they come."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable

import click

from emotiw_keras.cli import completion
from emotiw_keras.cli.console import SOME_UNREADABLE, put, tell
from emotiw_keras.errors import UsageError
from emotiw_keras.weights.shipped import DEFAULT

_WINDOW = re.compile(r"(\d+(?:\.\d+)?)s|(\d+)")


def _window(ctx: click.Context, parameter: click.Parameter, value: str) -> Callable[[float], int]:
    """--smooth: from a video's frames a second to the frames that are averaged."""
    match = _WINDOW.fullmatch(value.strip())
    if match is None or float(match[1] or match[2]) == 0:
        raise click.BadParameter(f"{value!r}: expected seconds such as 0.5s, or a number of frames such as 12", ctx, parameter)
    if match[2]:
        return lambda rate: int(match[2])
    return lambda rate: max(1, round(float(match[1]) * rate))


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option(
    "--model",
    metavar="RUN",
    shell_complete=completion.runs,
    default=DEFAULT,
    show_default=True,
    help="Run folder, a model that ships with the package, or a file of `emotiw export --format onnx`.",
)
@click.option("--head", metavar="NAME", help="Which answer of a network with several heads; default: the run's choice.")
@click.option(
    "--faces",
    type=click.Choice(["detect", "whole"]),
    default="detect",
    show_default=True,
    help="detect: find and align every face. whole: each image is one face, already cropped.",
)
@click.option("--detector", metavar="NAME", help="Face detector; an unknown name lists the available ones.")
@click.option(
    "--min-face",
    type=click.FloatRange(min=10),
    metavar="PIXELS",
    help="Size of the smallest faces to look for; default: 24 in photos, 34 in videos. More is faster in large images.",
)
@click.option("--turned", is_flag=True, help="Look at photos without a face again, turned by 90 and 180 degrees, and say so.")
@click.option(
    "--every",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="K",
    help="For videos: detect faces in every K-th frame and follow them by optical flow in between.",
)
@click.option(
    "--smooth",
    default="1",
    callback=_window,
    metavar="SECONDS|FRAMES",
    help="For videos: average each face's probabilities over its last seconds (0.5s) or frames (12).",
)
@click.option("--annotate", metavar="DIR", help="Write copies with boxes, labels and bars into this new folder.")
@click.option("--explain", metavar="DIR", help="Write each face with its LayerCAM into this new folder.")
@click.option(
    "--crops",
    type=click.Choice(["1", "2", "10"]),
    help="Crops of a face to average over: the centre, its mirror image too, or ten; default: the run's setting, else 1.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV with a header.")
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="Faces computed at once.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "mixed_bfloat16", "mixed_float16"]),
    default="float32",
    show_default=True,
    help="Precision of the network; mixed_bfloat16 is faster on processors with native bfloat16.",
)
@click.option(
    "--engine",
    type=click.Choice(["auto", "tensorflow", "onnxruntime", "openvino", "opencv"]),
    default="auto",
    show_default=True,
    help="What computes the network. auto: OpenCV, which starts at once; for many faces the fastest of those installed, timed "
    "once; TensorFlow where nothing else can do what is asked for.",
)
@click.pass_context
def predict(
    ctx: click.Context,
    inputs: tuple[str, ...],
    model: str,
    head: str | None,
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
    engine: str,
) -> None:
    """Read the expression of each face in INPUT: images, videos, folders, zips and glob patterns of them, numbered
    images (frames_%05d.jpg, as a video of 25 frames a second), or a camera (camera:0, until Ctrl-C).

    Rows go to standard output as they come, one per face, and one for each image or frame without a face. In a video a
    face keeps its number while it is followed. An input that cannot be read is a row with its error, named on standard
    error too, and the exit code is 3. Annotated videos have no sound.

    `uncertain` says that the entropy of the probabilities is above what validation images say is usable. Valence and arousal
    (-1 to 1) are derived from the probabilities by where words for the expressions lie on Russell's circumplex; they are not
    measured.

    \b
    Examples:
      emotiw predict party.jpg --model runs/first
      emotiw predict photos/ more.zip --model runs/first --csv > rows.csv
      emotiw predict clip.mp4 --model runs/first --every 5 --smooth 0.5s --annotate seen --json > rows.jsonl
      emotiw predict crops/ --model runs/first --faces whole
      emotiw predict party.jpg --model runs/first --explain why
      emotiw predict photos/ --model face.onnx --engine onnxruntime
    """
    if as_json and as_csv:
        raise UsageError("--json and --csv cannot be combined; choose one")
    if faces == "whole" and (detector is not None or every != 1 or min_face is not None or turned):
        raise UsageError("--faces whole finds no faces; leave out --detector, --every, --min-face and --turned")
    if explain is not None and engine not in ("auto", "tensorflow"):
        raise UsageError(
            f"--explain looks into the Keras network, which --engine {engine} does not have; leave one of them out"
        )
    from emotiw_keras.hardware import keep_memory
    from emotiw_keras.serving.decoders import apart
    from emotiw_keras.serving.inputs import decoded, expand, read_inputs
    from emotiw_keras.serving.pipeline import Pipeline
    from emotiw_keras.serving.predictor import Predictor
    from emotiw_keras.serving.rows import csv_lines, json_line, readable_line, rows_of
    from emotiw_keras.serving.video_inputs import opened

    keep_memory()
    ctx.with_resource(apart(decoded, opened))  # while nothing else has been started
    predictor = Predictor(
        model,
        batch_size=batch_size,
        detector=detector,
        crops=None if crops is None else int(crops),
        precision=precision,
        min_face=min_face,
        engine=engine if explain is None else "tensorflow",
        head=head,
    )
    pipeline = Pipeline(
        predictor,
        whole=faces == "whole",
        every=every,
        smooth=smooth,
        keep_pixels=annotate is not None,
        keep_faces=explain is not None,
        turned=turned,
    )
    if (as_json or as_csv) and predictor.usable_entropy is None:
        tell(
            f"emotiw: {predictor.source.called} does not say which entropy is usable, so `uncertain` is empty; `emotiw pack` "
            "settles it"
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
            image = reading.image
            for note in image.notes:
                say(f"{image.path}: {note}")
            if reading.failed:
                unreadable += 1
                place = image.path if image.frame is None else f"{image.path} frame {image.frame}"
                say(f"cannot read {place}: {reading.error}")
            if annotator is not None:
                annotator.write(reading)
            if explainer is not None:
                explainer.write(reading)
    if unreadable:
        ctx.exit(SOME_UNREADABLE)
