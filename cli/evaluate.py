"""`emotiw evaluate`: score runs on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emotiw_keras.cli import completion
from emotiw_keras.cli.console import put, put_made, warn
from emotiw_keras.cli.console import tell as say
from emotiw_keras.cli.places import LOCAL, RUN
from emotiw_keras.cli.scoring import Scorer, default_data, first_of, scoring_options, with_head
from emotiw_keras.errors import UsageError
from emotiw_keras.sealed import json_text
from emotiw_keras.text import number_of

if TYPE_CHECKING:
    from emotiw_keras.evaluation.assessment import Assessment
    from emotiw_keras.fold_runs import FoldRuns
    from emotiw_keras.runs import Run

ENSEMBLE = "ensemble"


def _folders(out: str, runs: list[Run | FoldRuns], ensemble: bool) -> list[Path]:
    """One report folder per run: DIR itself for a single one, DIR/NAME for several, numbered where names repeat."""
    if len(runs) == 1:
        return [Path(out)]
    names = [run.name for run in runs]
    taken = [*names, *([ENSEMBLE] if ensemble else [])]
    folders = [Path(out) / (name if taken.count(name) == 1 else f"{i + 1:02d}-{name}") for i, name in enumerate(names)]
    return [*folders, *([Path(out) / ENSEMBLE] if ensemble else [])]


def _text(assessment: Assessment) -> str:
    from emotiw_keras.reports.score_tables import (
        agreement_lines,
        figures_table,
        folds_table,
        per_class_table,
        robust_table,
    )
    from emotiw_keras.reports.sections import cautions

    asked = assessment.question
    what = f"ensemble of {len(assessment.members)} runs" if assessment.members else str(assessment.path)
    if assessment.folds:
        what += f" ({len(assessment.folds)} folds)"
    lines = [f"{what} on {asked.source}, split {asked.split}", figures_table(assessment.result)]
    lines += agreement_lines(assessment.result)
    more = [robust_table(assessment.result)] if "robust" in assessment.result else []
    more += [folds_table(assessment.result)] if assessment.folds else []
    return "\n\n".join([*lines, *cautions(assessment), per_class_table(assessment.result), *more])


def _json(assessment: Assessment) -> str:
    if assessment.members:
        runs = [str(each.run.path) for each in assessment.members]
        return json_text({"run": ENSEMBLE, "members": runs, **assessment.result})
    return json_text({"run": str(assessment.path), **assessment.result})


def _write_challenge(assessment: Assessment, folder: Path) -> None:
    from emotiw_keras.reports.video_tables import write_challenge

    assert assessment.answers is not None, "every frame was asked for"
    written = write_challenge(assessment.answers, assessment.predictions.labels, folder)
    (warn if written.filled else say)(
        f"challenge: {folder} ({number_of(len(written.paths), 'videos')}, "
        f"{number_of(written.frames, 'frames')}; {written.filled:,} without a readable "
        "image took the answer of the nearest earlier frame, or of the nearest later one at the start of a video)"
    )
    if written.empty:
        warn(f"challenge: no readable image, so every frame is -1: {', '.join(written.empty)}")


@click.command()
@click.argument("runs", type=RUN, metavar="RUN [RUN ...]", shell_complete=completion.runs, nargs=-1, required=True)
@scoring_options
@click.option(
    "--smooth",
    metavar="N",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="For a set of videos: average the probabilities over N consecutive frames around each frame.",
)
@click.option(
    "--challenge",
    type=LOCAL,
    metavar="DIR",
    help="For a set of videos: write DIR/VIDEO.txt as its annotations are, class names and then one number per frame.",
)
@click.option(
    "--calibrate", is_flag=True, help="Also give calibration error and log loss at the temperature that suits the split val."
)
@click.option(
    "--robust",
    is_flag=True,
    help="Score the same faces also with noise, blurred, small, as bad JPEG, dark and cut otherwise: nine times as long.",
)
@click.option("--ensemble", is_flag=True, help="Also score the ensemble: the mean of the runs' probabilities.")
@click.option(
    "--out",
    type=LOCAL,
    metavar="DIR",
    help="Also write a report folder: an HTML page, the scores, one CSV line per image, and charts.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per run on standard output.")
@click.pass_context
def evaluate(
    ctx: click.Context,
    /,
    runs: tuple[str, ...],
    head: str | None,
    smooth: int,
    challenge: str | None,
    calibrate: bool,
    robust: bool,
    ensemble: bool,
    out: str | None,
    as_json: bool,
    **scoring: Any,
) -> None:
    """Score run folders on a data set: accuracy, macro F1, calibration, confusion matrix.

    The folder of `emotiw fit --folds` is scored as a whole: each image by the run that has not been given it.

    Data without splits of its own is split as the run split it; leak-free figures leave out every image that is also
    in a train or val split of the run. Where persons are known, intervals are by person. The expected cost is lenient
    with confusions of similar expressions: 0 is correct, 1 the worst confusion. Exit code 3: done, but some images could
    not be read (each is named).

    In the files of --challenge, a frame without an image takes the answer of the nearest earlier frame that has one; the number
    of such frames is printed.

    \b
    Examples:
      emotiw evaluate runs/ng --data faces.zip --out report      and open report/report.html
      emotiw evaluate runs/two --head votes --data fer2013.zip --votes fer2013new.csv
      emotiw evaluate runs/a runs/b --ensemble --crops 2 --data faces.zip
      emotiw evaluate runs/ng --data faces.zip --robust          what noise, blur and bad light cost
    """
    if robust and ensemble:
        raise UsageError("--robust scores each run by itself; leave out --ensemble")
    if calibrate and ensemble:
        raise UsageError("--calibrate chooses a temperature for each run by itself; leave out --ensemble")
    from emotiw_keras.files import check_folder_place, check_replaced, real
    from emotiw_keras.fold_runs import FoldRuns, open_runs
    from emotiw_keras.hardware import keep_memory

    keep_memory()
    for place in filter(None, (out, challenge)):
        check_folder_place(place)
    opened = with_head([open_runs(path) for path in runs], head)
    if ensemble and any(isinstance(run, FoldRuns) for run in opened):
        raise UsageError("--ensemble averages over runs that answer the same images; the folds of a cross-validation do not")
    folds = next((run for run in opened if isinstance(run, FoldRuns)), None)
    if folds is not None and (robust or calibrate):
        named = "--robust" if robust else "--calibrate"
        raise UsageError(f"{named} scores one run; of a cross-validation name one of its folds, such as {folds.runs[0].path}")
    if ensemble and len(opened) < 2:
        raise UsageError("--ensemble averages over runs; name at least two")
    if ensemble and scoring["data"] is None and len({default_data(run) for run in opened}) > 1:
        raise UsageError("the runs were trained on different data; name the data to score the ensemble on with --data PATH")
    if ensemble:
        from emotiw_keras.evaluation.ensemble import check_labels

        check_labels([first_of(run) for run in opened], [run.called for run in opened])

    if challenge is not None:
        from emotiw_keras.data.layouts.affwild2 import annotation_folder

        for source in {scoring["data"] or default_data(run) for run in opened}:
            annotations = annotation_folder(source)
            if annotations is not None and real(Path(challenge)).is_relative_to(real(annotations)):
                raise UsageError(f"{challenge} lies in {annotations}, whose annotations it would replace; name another folder")
    score = Scorer(**scoring, calibrate=calibrate, smooth=smooth, robust=robust, every_frame=challenge is not None)
    challenges: list[Path | None] = [None] * len(opened) if challenge is None else list(_folders(challenge, opened, False))
    folders: list[Path | None] = [None] * (len(opened) + ensemble)
    if out is not None:
        from emotiw_keras.reports.evaluation_report import FILES

        reports = _folders(out, opened, ensemble)
        for each in reports:
            check_replaced(each, FILES, "a report")
        folders = list(reports)

    def tell(assessment: Assessment, folder: Path | None) -> None:
        answer = put if folder is None else put_made
        answer(_json(assessment) if as_json else _text(assessment))
        if folder is not None:
            from emotiw_keras.reports.evaluation_report import write_report

            written = write_report(folder, assessment)
            say(f"report: {written[0]} (beside it {', '.join(path.name for path in written[1:])})")

    members = []
    for run, folder, answers in zip(opened, folders, challenges, strict=False):
        assessment = score(run)
        tell(assessment, folder)
        if answers is not None:
            _write_challenge(assessment, answers)
        if ensemble:
            members.append(assessment)
    if ensemble:
        from emotiw_keras.evaluation.ensemble import ensemble as averaged

        tell(averaged(members), folders[-1])
    score.finish(ctx)
