"""What the commands share that score runs: their options, their data, what they say on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from emotiw_keras.cli.amounts import Amount
from emotiw_keras.cli.console import SOME_UNREADABLE, tell, warn
from emotiw_keras.cli.places import LOCAL
from emotiw_keras.errors import UsageError
from emotiw_keras.progress import Bar
from emotiw_keras.text import number_of

if TYPE_CHECKING:
    from emotiw_keras.evaluation.assessment import Assessment
    from emotiw_keras.evaluation.evaluate import Read
    from emotiw_keras.fold_runs import FoldRuns
    from emotiw_keras.runs import Run

Command = Callable[..., Any]

_OPTIONS = (
    click.option("--data", type=LOCAL, metavar="PATH", help="Data to score on; default: the data of the run's last stage."),
    click.option(
        "--split",
        default="test",
        show_default=True,
        type=click.Choice(["train", "val", "test", "all"]),
        help="Split to score.",
    ),
    click.option(
        "--limit",
        metavar="N",
        type=click.IntRange(min=1),
        help="Score at most N images, each class in proportion; without --votes only N a split are read of data with splits of "
        "their own, and near duplicates not looked for.",
    ),
    click.option(
        "--crops",
        type=click.Choice(["1", "2", "10"]),
        help="Crops of a face to average over: the centre, its mirror image too, or ten; default: the run's setting, else 1.",
    ),
    click.option(
        "--near-duplicates",
        metavar="R",
        type=Amount(0, 1),
        help="Correlation from which two images are one photograph, 0.95 to 1; 0 does not look for them. Default: 0.97.",
    ),
    click.option(
        "--head",
        metavar="NAME",
        help="Which answer of a network with several heads, for runs that have it; default: the run's choice.",
    ),
    click.option(
        "--votes",
        type=LOCAL,
        metavar="FILE",
        help="For FER-2013: FER+'s fer2013new.csv; the truth is the majority of ten people's votes.",
    ),
    click.option("--votes-rows", type=LOCAL, metavar="FILE", help="A table file,row: which row of --votes an image is."),
    click.option(
        "--subject-pattern",
        metavar="REGEX",
        help="Regular expression on file names (on paths if it holds a /) for the person, where the data do not say who it is; "
        "`none`: nobody is known by names of folders and files.",
    ),
    click.option(
        "--costs", type=LOCAL, metavar="FILE", help="TOML file with the cost of each confusion, for the expected cost."
    ),
)


def scoring_options(command: Command) -> Command:
    """--data, --split, --limit, --crops, --near-duplicates, --head, --votes, --votes-rows, --subject-pattern and --costs."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def default_data(run: Run | FoldRuns) -> str:
    """The data of a run's last stage.

    Raises:
        UsageError: the run does not say it.
    """
    sources = list(run.info.get("sources", {}).values())
    if not sources:
        raise UsageError(f"{run.path} does not say what it was trained on; name the data to score with --data PATH")
    return sources[-1]


def first_of(run: Run | FoldRuns) -> Run:
    """The run itself, or the first of a cross-validation, whose labels and heads all have."""
    from emotiw_keras.runs import Run

    return run if isinstance(run, Run) else run.runs[0]


def with_head(runs: Sequence[Run | FoldRuns], head: str | None) -> list[Run | FoldRuns]:
    """The runs with the answers of --head, where they have it; a line names those that choose another of their heads.

    Raises:
        UsageError: none of them has it.
    """
    if head is None:
        return list(runs)
    names = [[each.name for each in first_of(run).heads] for run in runs]
    if len(runs) > 1 and not any(head in each for each in names):
        there = [f"{run.called} has {', '.join(each) or 'one answer'}" for run, each in zip(runs, names, strict=True)]
        raise UsageError(f"none of the runs has the head {head!r}: {'; '.join(there)}")
    found = []
    for run, each in zip(runs, names, strict=True):
        if head in each or len(runs) == 1:
            run = run.with_head(head)
        elif each:
            own = first_of(run).head
            tell(f"{run.called} has no head {head!r}: its answers are those of {own.name if own else 'its own choice'}")
        found.append(run)
    return found


class Scorer:
    """Assesses runs one after the other; each image that could not be read is named once.

    Args:
        data: what to score on, or None for each run's own.
        split, limit, crops, costs, near_duplicates, votes, votes_rows, subject_pattern: as typed.
        **others: what else `assess` takes.
    """

    def __init__(
        self,
        data: str | None,
        split: str,
        limit: int | None,
        crops: str | None,
        costs: str | None,
        near_duplicates: float | None = None,
        votes: str | None = None,
        votes_rows: str | None = None,
        subject_pattern: str | None = None,
        **others: Any,
    ) -> None:
        self._data = data
        self._asked: dict[str, Any] = {
            "split": split, "limit": limit, "crops": None if crops is None else int(crops), "costs": costs,
            "votes": votes, "votes_rows": votes_rows, "subject_pattern": subject_pattern,
            **others,
        }  # fmt: skip
        if near_duplicates is not None:
            self._asked["near_duplicates"] = near_duplicates
        self._unreadable: set[tuple[str, str]] = set()
        self._said: set[str] = set()
        self._read: Read | None = None

    def __call__(self, run: Run | FoldRuns) -> Assessment:
        """The assessment of a run, or of the runs of a cross-validation together."""
        from emotiw_keras.evaluation.cross_validation import assess_folds
        from emotiw_keras.fold_runs import FoldRuns

        if isinstance(run, FoldRuns):
            return assess_folds(run, self, self._asked["split"], self._asked["limit"])
        from emotiw_keras.evaluation.evaluate import assess, read_once

        source = self._data or default_data(run)
        self._read = self._read or read_once(self._say)
        bar = Bar("images")
        assessment = assess(run, source, progress=bar.to, say=self._say, read=self._read, **self._asked)
        bar.close()
        predictions = assessment.predictions
        for path, status in zip(predictions.paths, predictions.status, strict=True):
            if status != "ok" and (source, path) not in self._unreadable:
                self._unreadable.add((source, path))
                warn(f"emotiw: could not read {path} in {source}: {status}")
        return assessment

    def _say(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            tell(line)

    def finish(self, ctx: click.Context) -> None:
        """End with exit code 3 if some images could not be read."""
        if self._unreadable:
            warn(f"emotiw: {number_of(len(self._unreadable), 'images')} could not be read")
            ctx.exit(SOME_UNREADABLE)
