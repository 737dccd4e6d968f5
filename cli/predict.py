"""`emotiw predict`: the expression of each face, one row per face as they come."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from emotiw_keras.cli import completion, parts
from emotiw_keras.cli.amounts import Amount
from emotiw_keras.cli.console import SOME_UNREADABLE, put, put_made, remark, warn
from emotiw_keras.cli.places import ANYWHERE, LOCAL, RUN
from emotiw_keras.errors import UsageError
from emotiw_keras.weights.shipped import DEFAULT

if TYPE_CHECKING:
    from emotiw_keras.serving.readings import ImageReading
    from emotiw_keras.serving.rows import Show


def _window(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    """--smooth, if it can be meant."""
    from emotiw_keras.serving.pipeline import window

    try:
        window(value)
    except UsageError as error:
        raise click.BadParameter(str(error), ctx, parameter) from error
    return value


@click.command()
@click.argument("inputs", type=ANYWHERE, nargs=-1, required=True, metavar="INPUT...")
@click.option(
    "--model",
    type=RUN,
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
    type=Amount(min=10),
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
@click.option("--annotate", type=LOCAL, metavar="DIR", help="Write copies with boxes, labels and bars into this new folder.")
@click.option("--explain", type=LOCAL, metavar="DIR", help="Write each face with its LayerCAM into this new folder.")
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
    type=click.Choice(["float32", "mixed_bfloat16", "mixed_float16", "int8"]),
    default="float32",
    show_default=True,
    help="Precision of the network; mixed_bfloat16 is faster on processors with native bfloat16, int8 (of models that ship and "
    "those of `emotiw pack`) on processors with VNNI.",
)
@click.option(
    "--engine",
    type=click.Choice(["auto", "tensorflow", "onnxruntime", "openvino", "opencv"]),
    default="auto",
    show_default=True,
    help="What computes the network. auto: OpenCV, which starts at once; for many faces the fastest of those installed, timed "
    "once; TensorFlow where nothing else can do what is asked for.",
)
@parts.options
@click.pass_context
def predict(
    ctx: click.Context,
    /,
    inputs: tuple[str, ...],
    model: str,
    head: str | None,
    faces: str,
    detector: str | None,
    min_face: float | None,
    turned: bool,
    every: int,
    smooth: str,
    annotate: str | None,
    explain: str | None,
    crops: str | None,
    as_json: bool,
    as_csv: bool,
    batch_size: int,
    precision: str,
    engine: str,
    out: str | None,
    **spread: Any,
) -> None:
    """Read the expression of each face in INPUT: images, videos, folders, zips and glob patterns of them, numbered
    images (frames_%05d.jpg, as a video of 25 frames a second), or a camera (camera:0, until Ctrl-C).

    Rows go to standard output as they come, one per face, and one for each image or frame without a face. In a video a
    face keeps its number while it is followed. An input that cannot be read is a row with its error, named on standard
    error too, and the exit code is 3. Annotated videos have no sound.

    With --out the rows go into parts in a folder, or below an address such as s3://bucket/read, read by --jobs processes
    here or by a Ray cluster. INPUT may then also be tars, lists (.txt, a path a line), manifests (.csv, .parquet with a
    column `path`) and addresses. The same command goes on after any stop, and the parts do not depend on how many read.

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
      emotiw predict photos/ films/ more.tar list.txt --out read --jobs 8 && emotiw summary read
    """
    _check(as_json, as_csv, faces, detector, every, min_face, turned, explain, engine, precision)
    if out is not None:
        parts.refuse(ctx, "as_json", "as_csv", "annotate", "explain")
        settings = parts.predict_settings(
            model, head, faces, detector, min_face, turned, every, smooth, crops, batch_size, precision, engine
        )
        parts.run_job(ctx, "predict", out, settings, inputs, **spread)
        return
    parts.refuse_without_out(ctx)
    from emotiw_keras.hardware import keep_memory
    from emotiw_keras.serving.decoders import apart
    from emotiw_keras.serving.inputs import decoded, expand, is_one_file, read_inputs
    from emotiw_keras.serving.pipeline import Pipeline, window
    from emotiw_keras.serving.predictor import Predictor
    from emotiw_keras.serving.rows import csv_lines, json_line, readable_line
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
        smooth=window(smooth),
        keep_pixels=annotate is not None,
        keep_faces=explain is not None,
        turned=turned,
    )
    cautions = predictor.source.cautions
    for caution in cautions:
        remark(caution)
    if (as_json or as_csv) and predictor.usable_entropy is None and not cautions:
        warn(
            f"emotiw: {predictor.source.called} does not say which entropy is usable, so `uncertain` is empty; `emotiw pack` "
            "settles it"
        )
    if crops == "10" and predictor.source.settings["resize"] == predictor.source.settings["crop"]:
        warn("emotiw: the network sees the whole face, so that ten crops are the centre and its mirror image five times")
    named = expand(inputs)
    if all(isinstance(name, str) and is_one_file(name) for name in named):
        predictor.expect(len(named))
    show = json_line if as_json else csv_lines(predictor.labels) if as_csv else readable_line
    paths = [name for name in named if isinstance(name, str)]
    with contextlib.ExitStack() as stack:
        annotator = explainer = None
        if annotate is not None:
            from emotiw_keras.serving.annotate import Annotator

            annotator = stack.enter_context(Annotator(annotate, paths))
        if explain is not None:
            from emotiw_keras.serving.explain import Explainer

            explainer = stack.enter_context(contextlib.closing(Explainer(predictor, explain, paths)))
        readings = stack.enter_context(contextlib.closing(pipeline.read(read_inputs(named, remark), threads=True)))
        others = [each.write for each in (annotator, explainer) if each is not None]
        failed = _put_rows(readings, show, put_made if others else put, others)
    left_out = annotator.left_out if annotator is not None else ()
    for line in left_out:
        warn(f"emotiw: {line}")
    if failed or left_out:
        ctx.exit(SOME_UNREADABLE)


def _check(
    as_json: bool, as_csv: bool, faces: str, detector: str | None, every: int, min_face: float | None, turned: bool,
    explain: str | None, engine: str, precision: str,
) -> None:  # fmt: skip
    """UsageError for options that do not go together."""
    if as_json and as_csv:
        raise UsageError("--json and --csv cannot be combined; choose one")
    if faces == "whole" and (detector is not None or every != 1 or min_face is not None or turned):
        raise UsageError("--faces whole finds no faces; leave out --detector, --every, --min-face and --turned")
    if explain is not None and engine not in ("auto", "tensorflow"):
        raise UsageError(
            f"--explain looks into the Keras network, which --engine {engine} does not have; leave one of them out"
        )
    if explain is not None and precision == "int8":
        raise UsageError("--explain looks into the Keras network, which does not compute in int8; leave one of them out")


def _put_rows(
    readings: Iterable[ImageReading],
    show: Show,
    say: Callable[[object], None],
    others: Sequence[Callable[[ImageReading], None]],
) -> bool:
    """Rows to `say` as they come, what could not be read to standard error, readings to `others` too; whether any
    failed."""
    from emotiw_keras.serving.rows import rows_of

    failed = False
    for reading in readings:
        for row in rows_of(reading):
            say(show(row))
        image = reading.image
        for note in image.notes:
            warn(f"emotiw: {image.path}: {note}")
        if reading.failed:
            failed = True
            place = image.path if image.frame is None else f"{image.path} frame {image.frame}"
            warn(f"emotiw: cannot read {place}: {reading.error}")
        for write in others:
            write(reading)
    return failed
