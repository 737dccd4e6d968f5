"""`emotiw card`: the model card of a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from emotiw_keras.cli import completion
from emotiw_keras.cli.console import put_made
from emotiw_keras.cli.places import LOCAL, RUN
from emotiw_keras.cli.scoring import Scorer, default_data, first_of, scoring_options, with_head


@click.command()
@click.argument("run", type=RUN, metavar="RUN", shell_complete=completion.runs)
@scoring_options
@click.option(
    "--out", type=LOCAL, metavar="FILE", required=True, help="The card to write, usually README.md beside the weights."
)
@click.option("--name", metavar="NAME", help="The model's name; default: the name of the run folder.")
@click.option("--license", "licence", metavar="ID", default="other", show_default=True, help="Licence of the weights: mit, ...")
@click.option("--dataset", "datasets", metavar="ID", multiple=True, help="A training set, as the Hugging Face Hub names it.")
@click.option("--data-terms", metavar="TEXT", default="", help="Terms of the training data, as their source states them.")
@click.pass_context
def card(
    ctx: click.Context,
    /,
    run: str,
    out: str,
    name: str | None,
    licence: str,
    datasets: tuple[str, ...],
    data_terms: str,
    head: str | None,
    **scoring: Any,
) -> None:
    """Score the run folder RUN and write its model card: figures, data, intended use, limits, law, how to reproduce it.

    The card is Markdown with the metadata that the Hugging Face Hub reads. Its figures are those of `emotiw evaluate`
    with the same options; of the folder of `emotiw fit --folds --refit` it describes the run of all data, with the figures
    of the folds. An older card is replaced, any other file is not.

    \b
    Example: emotiw card runs/ng --data faces.zip --license mit --out README.md
    """
    from emotiw_keras.fold_runs import FoldRuns, is_cross_validation
    from emotiw_keras.reports.model_card import CardFacts, check_place, write_card
    from emotiw_keras.runs import Run

    check_place(out)
    (chosen,) = with_head([Run.open(run)], head)
    score = Scorer(**scoring)
    if is_cross_validation(run) and scoring["split"] == "test" and scoring["data"] in (None, default_data(chosen)):
        (folds,) = with_head([FoldRuns.open(run)], head)
        assessment = replace(score(folds), run=first_of(chosen))
    else:
        assessment = score(chosen)

    write_card(out, assessment, CardFacts(name or assessment.name, licence, datasets, data_terms))
    put_made(Path(out))
    score.finish(ctx)
