"""`emotiw compare`: runs side by side on the same images."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from emotiw_keras.cli import completion
from emotiw_keras.cli.console import put, put_made, tell
from emotiw_keras.cli.places import LOCAL, RUN
from emotiw_keras.cli.scoring import Scorer, default_data, first_of, scoring_options, with_head
from emotiw_keras.errors import UsageError
from emotiw_keras.sealed import json_text


@click.command()
@click.argument("runs", type=RUN, metavar="RUN RUN ...", shell_complete=completion.runs, nargs=-1, required=True)
@scoring_options
@click.option("--out", type=LOCAL, metavar="DIR", help="Also write compare.html and compare.json into this folder.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@click.pass_context
def compare(
    ctx: click.Context,
    /,
    runs: tuple[str, ...],
    head: str | None,
    out: str | None,
    as_json: bool,
    **scoring: Any,
) -> None:
    """Put two or more runs side by side on the same images, and say whether the difference is more than chance.

    Accuracy by an exact test (McNemar's, or where persons are known a permutation test by person), macro F1 by a paired
    bootstrap; with more than two runs also adjusted by Holm's method. Labels are matched by name. Leak-free figures leave
    out what any of the runs was given to train or select on.

    \b
    Example: emotiw compare runs/direct runs/staged --data faces.zip --out side-by-side
    """
    from emotiw_keras.evaluation.ensemble import check_labels
    from emotiw_keras.files import check_replaced
    from emotiw_keras.fold_runs import open_runs
    from emotiw_keras.html import MARK

    if out is not None:
        check_replaced(out, {"compare.json": '"selected_on"', "compare.html": MARK}, "a comparison")
    if len(runs) < 2:
        raise UsageError(f"comparing needs at least two runs; got {len(runs)}")
    opened = with_head([open_runs(path) for path in runs], head)
    check_labels([first_of(run) for run in opened], [run.called for run in opened])
    sources = {scoring["data"] or default_data(run) for run in opened}
    if len(sources) > 1:
        raise UsageError(f"the runs were trained on different data ({', '.join(sorted(sources))}); name one with --data PATH")
    score = Scorer(**scoring)
    assessments = [score(run) for run in opened]

    from emotiw_keras.evaluation.compare import compare as side_by_side
    from emotiw_keras.reports.comparison_page import comparison_page, comparison_text

    comparison = side_by_side(assessments)
    (put if out is None else put_made)(json_text(comparison) if as_json else comparison_text(comparison))
    if out is not None:
        from emotiw_keras.files import write_atomic
        from emotiw_keras.reports.only_right import only_right_section

        (source,) = sources
        options = {**scoring, "head": head, "data": source}
        given = [
            word for name, value in options.items() if value is not None for word in (f"--{name.replace('_', '-')}", str(value))
        ]
        command = shlex.join(["emotiw", "compare", *runs, *given])
        faces = only_right_section(assessments, [each["run"] for each in comparison["runs"]])
        write_atomic(Path(out) / "compare.json", json_text(comparison, indent=2) + "\n")
        write_atomic(Path(out) / "compare.html", comparison_page(comparison, source, command, faces))
        tell(f"report: {Path(out) / 'compare.html'}")
    score.finish(ctx)
