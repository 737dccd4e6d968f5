"""`emotiw evaluate`: score runs on a data set."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from emotiw_keras.errors import UsageError

if TYPE_CHECKING:
    from emotiw_keras.evaluation.evaluate import Assessment, Progress
    from emotiw_keras.runs import Run

SOME_UNREADABLE = 3


def _default_data(run: Run) -> str:
    sources = list(run.info.get("sources", {}).values())
    if not sources:
        raise UsageError(f"{run.path} does not say what it was trained on; name the data to score with --data PATH")
    return sources[-1]


def _progress() -> Progress | None:
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        click.echo(f"\r  scored {done} of {total} images" + ("\n" if done == total else ""), err=True, nl=False)

    return show


def _folders(out: str, runs: list[Run]) -> list[Path]:
    """One report folder a run: DIR itself for a single one, DIR/NAME for several, numbered where names repeat."""
    if len(runs) == 1:
        return [Path(out)]
    names = [run.name for run in runs]
    return [Path(out) / (name if names.count(name) == 1 else f"{i + 1:02d}-{name}") for i, name in enumerate(names)]


def _text(run: Run, data: str, assessment: Assessment) -> str:
    from emotiw_keras.evaluation.report import figures_table, per_class_table

    result = assessment.result
    lines = [f"{run.path} on {data}, split {result['split']}", figures_table(result)]
    if result["selected_on"]:
        lines.append("The run chose its best epoch on these images: the figures are on the hopeful side.")
    if result["leak_free"] is None:
        lines.append("No leak-free figures: every image also stands in a train or val split that the run was given.")
    return "\n\n".join([*lines, per_class_table(result)])


@click.command()
@click.argument("runs", metavar="RUN [RUN ...]", nargs=-1, required=True)
@click.option("--data", metavar="PATH", help="What to score on; without it, the data of the run's last stage.")
@click.option(
    "--split",
    default="test",
    show_default=True,
    type=click.Choice(["train", "val", "test", "all"]),
    help="Which images.",
)
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help="Score at most N images, each class in proportion.")
@click.option(
    "--crops", default="1", show_default=True, type=click.Choice(["1", "10"]), help="Centre crop, or the mean of ten."
)
@click.option("--out", metavar="DIR", help="Also write a report folder: scores, confusion matrix, one line per image, faces.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a run on standard output.")
@click.pass_context
def evaluate(
    ctx: click.Context,
    runs: tuple[str, ...],
    data: str | None,
    split: str,
    limit: int | None,
    crops: str,
    out: str | None,
    as_json: bool,
) -> None:
    """Score run folders on a data set: accuracy, macro F1, calibration, confusion matrix.

    Data without splits of its own is split as the run split it; leak-free figures leave out every image that also
    stands in a train or val split of the run. Exit code 3: done, but some images could not be read (each is named).

    \b
    Example: emotiw evaluate runs/ng --data faces.zip --out report
    """
    from emotiw_keras.hardware import keep_memory
    from emotiw_keras.runs import Run

    keep_memory()
    opened = [Run.open(path) for path in runs]
    sources = [data or _default_data(run) for run in opened]

    from emotiw_keras.evaluation.evaluate import assess, write_assessment

    folders: list[Path | None] = [None] * len(opened) if out is None else list(_folders(out, opened))
    unreadable: dict[tuple[str, str], str] = {}
    for run, source, folder in zip(opened, sources, folders, strict=True):
        assessment = assess(
            run,
            source,
            split=split,
            limit=limit,
            crops=int(crops),
            progress=_progress(),
            say=lambda line: click.echo(line, err=True),
        )
        told = assessment.predictions
        for path, status in zip(told.paths, told.status, strict=True):
            if status != "ok" and (source, path) not in unreadable:
                unreadable[source, path] = status
                click.echo(f"emotiw: could not read {path} in {source}: {status}", err=True)
        if as_json:
            result = assessment.result
            click.echo(json.dumps(result if len(opened) == 1 else {"run": str(run.path), **result}))
        else:
            click.echo(_text(run, source, assessment))
        if folder is not None:
            written = write_assessment(assessment, folder, f"{run.name} on {Path(source).name}")
            click.echo(f"report: {folder} ({', '.join(path.name for path in written)})", err=True)
    if unreadable:
        click.echo(f"emotiw: {len(unreadable)} images could not be read", err=True)
        ctx.exit(SOME_UNREADABLE)
