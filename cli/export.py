"""`emotiw export`: a run as a model that can be served."""

from __future__ import annotations

from pathlib import Path

import click

from emotiw_keras.cli import completion
from emotiw_keras.cli.console import put_made, remark, tell
from emotiw_keras.cli.places import LOCAL, RUN
from emotiw_keras.text import number_of

_OTHERS = (".keras", ".h5", ".hdf5", ".pb", ".pt", ".pth", ".npz")
"""Endings of formats that are not written."""


@click.command()
@click.argument("run", type=RUN, metavar="RUN", shell_complete=completion.runs)
@click.argument("out", type=LOCAL, metavar="OUT")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["savedmodel", "tflite", "onnx"]),
    help="tflite and onnx take prepared pixels; onnx needs the extra [onnx]. Default: by OUT's ending, else savedmodel.",
)
@click.option(
    "--head", metavar="NAME", help="Of several heads, the one whose answers are the main ones; default: the run's choice."
)
def export(run: str, out: str, kind: str | None, head: str | None) -> None:
    """Turn the run folder RUN into a model that can be served without this package.

    savedmodel is a new folder for TensorFlow, the model in its subfolder 1 as TensorFlow Serving wants it: it takes image
    bytes or pixels of any size and gives named probabilities; an image that cannot be decoded has ok = false. EXIF
    orientation is not applied to the bytes.

    tflite and onnx are one new file: it takes uint8 faces, already cut out, in the run's size and channels, and gives
    probabilities. The file holds the labels and the preprocessing expected of the caller.

    Of a network with several heads, each also gives the answers of every head by its name.

    Each is loaded again in a new process and compared with the run before OUT appears.

    \b
    Examples:
      emotiw export runs/first served
      emotiw export runs/first face.onnx
    """
    from emotiw_keras.errors import UsageError
    from emotiw_keras.runs import Run

    if out in ("", "-") or Path(out).suffix.lower() in _OTHERS:
        raise UsageError(f"OUT is {out!r}; expected a new folder for a SavedModel, or a new file NAME.onnx or NAME.tflite")
    ending = {".onnx": "onnx", ".tflite": "tflite"}.get(Path(out).suffix.lower(), "")
    if kind is not None and ending not in ("", kind):
        raise UsageError(f"{out} ends as {ending} files do, but --format is {kind}; give another name, or --format {ending}")
    kind = kind or ending or "savedmodel"
    tell(f"exporting {run} and comparing the result in a fresh process")
    if kind == "savedmodel":
        from emotiw_keras.serving.export import export_savedmodel as write
    elif kind == "onnx":
        from emotiw_keras.serving.portable import export_onnx as write
    else:
        from emotiw_keras.serving.portable import export_tflite as write
    report = write(run if head is None else Run.open(run, head=head), out)
    for line in Run.open(run).cautions:
        remark(line)
    name = {"savedmodel": "SavedModel", "tflite": "TFLite", "onnx": "ONNX"}[kind]
    put_made(
        f"{out}: {name}, {report.megabytes:.1f} MB, "
        f"{number_of(len(report.labels), 'labels')}, takes {report.takes}; {number_of(report.compared, 'faces')} "
        f"agree in a fresh process (largest difference {report.largest_difference:.1e})"
    )
