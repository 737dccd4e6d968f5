"""`emotiw export`: a run as a model that can be served."""

from __future__ import annotations

import click

from emotiw_keras.errors import UsageError


@click.command()
@click.argument("run", metavar="RUN")
@click.argument("out", metavar="OUT")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["savedmodel", "tflite", "onnx"]),
    default="savedmodel",
    show_default=True,
    help="Only savedmodel is available in this version.",
)
def export(run: str, out: str, kind: str) -> None:
    """Turn the run folder RUN into a TensorFlow SavedModel in the new folder OUT.

    It takes image bytes or pixels and gives named probabilities. It is loaded again in a fresh process and compared
    before OUT appears. Labels and preprocessing travel inside. EXIF orientation is not applied to the bytes.

    \b
    Example: emotiw export runs/first served
    """
    if kind != "savedmodel":
        raise UsageError(f"--format {kind} is not available in this version; only savedmodel is")

    from emotiw_keras.serving.export import export_savedmodel

    click.echo(f"exporting {run} and comparing the result in a fresh process", err=True)
    report = export_savedmodel(run, out)
    click.echo(
        f"{out}: SavedModel, {report.megabytes:.1f} MB, {len(report.labels)} labels; {report.compared} faces agree "
        f"in a fresh process (largest difference {report.largest_difference:.1e})"
    )
