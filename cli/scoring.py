"""What the commands share that score runs: their options, their data, what they say on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from emotiw_keras.cli.console import counter, tell
from emotiw_keras.errors import UsageError

if TYPE_CHECKING:
    from emotiw_keras.evaluation.assessment import Assessment
    from emotiw_keras.evaluation.evaluate import Read
    from emotiw_keras.runs import Run

SOME_UNREADABLE = 3
Command = Callable[..., Any]

_OPTIONS = (
    click.option("--data", metavar="PATH", help="What to score on; without it, the data of the run's last stage."),
    click.option(
        "--split",
        default="test",
        show_default=True,
        type=click.Choice(["train", "val", "test", "all"]),
        help="Which images.",
    ),
    click.option("--limit", metavar="N", type=click.IntRange(min=1), help="Score at most N images, each class in proportion."),
    click.option(
        "--crops",
        type=click.Choice(["1", "2", "10"]),
        help="Centre crop, the mean with its mirror image, or of ten; without it, what the run says (1 if nothing).",
    ),
    click.option("--costs", metavar="FILE", help="TOML file of what each confusion costs, for the expected cost."),
)


def scoring_options(command: Command) -> Command:
    """--data, --split, --limit, --crops and --costs."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def default_data(run: Run) -> str:
    """The data of a run's last stage.

    Raises:
        UsageError: the run does not say it.
    """
    sources = list(run.info.get("sources", {}).values())
    if not sources:
        raise UsageError(f"{run.path} does not say what it was trained on; name the data to score with --data PATH")
    return sources[-1]


class Scorer:
    """Assesses runs one after the other; each image that could not be read is named once.

    Args:
        data: what to score on, or None for each run's own.
        split, limit, crops, costs: as typed.
        **videos: what `assess` takes for sets of videos.
    """

    def __init__(
        self, data: str | None, split: str, limit: int | None, crops: str | None, costs: str | None, **videos: Any
    ) -> None:
        self._data = data
        self._asked: dict[str, Any] = {
            "split": split, "limit": limit, "crops": None if crops is None else int(crops), "costs": costs, **videos,
        }  # fmt: skip
        self._unreadable: set[tuple[str, str]] = set()
        self._said: set[str] = set()
        self._read: Read | None = None

    def __call__(self, run: Run) -> Assessment:
        """The run's assessment."""
        from emotiw_keras.evaluation.evaluate import assess, read_once

        source = self._data or default_data(run)
        self._read = self._read or read_once()
        assessment = assess(
            run, source, progress=counter("scored {} of {} images"), say=self._say, read=self._read, **self._asked
        )
        told = assessment.predictions
        for path, status in zip(told.paths, told.status, strict=True):
            if status != "ok" and (source, path) not in self._unreadable:
                self._unreadable.add((source, path))
                tell(f"emotiw: could not read {path} in {source}: {status}")
        return assessment

    def _say(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            tell(line)

    def finish(self, ctx: click.Context) -> None:
        """End with exit code 3 if some images could not be read."""
        if self._unreadable:
            tell(f"emotiw: {len(self._unreadable)} images could not be read")
            ctx.exit(SOME_UNREADABLE)
