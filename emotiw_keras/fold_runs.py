"""The runs of a cross-validation in one folder: one for each fold, and with it, if asked for, one of all data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from emotiw_keras.files import expanded, local_path
from emotiw_keras.run_facts import FINAL, FOLDS_FILE, fold_name, read_folds
from emotiw_keras.runs import INFO_FILE, Run


@dataclass(frozen=True)
class FoldRuns:
    """The finished runs of a cross-validation.

    Attributes:
        path: the folder.
        facts: `folds`, `refit`, `recipe` and the name of the set that was cut, `data`.
        runs: one for each fold, in order.
    """

    path: Path
    facts: dict[str, Any]
    runs: tuple[Run, ...]

    @classmethod
    def open(cls, path: str | Path) -> FoldRuns:
        """Open the folder of `emotiw fit --folds`.

        Raises:
            RunError: it is none, or damaged, or one of its runs is missing, unfinished or damaged.
        """
        folder = local_path(path)
        facts = read_folds(folder)
        return cls(folder, facts, tuple(Run.open(folder / fold_name(number)) for number in range(facts["folds"])))

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @property
    def called(self) -> str:
        """What commands take for it: its path."""
        return str(self.path)

    def with_head(self, head: str) -> FoldRuns:
        """The same runs, their answers those of another head; UsageError if they have no such head."""
        return replace(self, runs=tuple(run.with_head(head) for run in self.runs))

    @property
    def info(self) -> dict[str, Any]:
        """run.json of the first fold; the others tell the same of data, labels and network."""
        return self.runs[0].info


def is_cross_validation(path: str | Path) -> bool:
    """Whether a folder holds the runs of a cross-validation."""
    folder = expanded(path)
    return (folder / FOLDS_FILE).is_file() and not (folder / INFO_FILE).exists()


def open_runs(path: str | Path) -> Run | FoldRuns:
    """The run of a folder or of a name, or the runs of a cross-validation.

    Raises:
        EmotiwError: as `Run.open` and `FoldRuns.open`.
    """
    return FoldRuns.open(path) if is_cross_validation(path) else Run.open(path)


__all__ = ["FINAL", "FOLDS_FILE", "FoldRuns", "fold_name", "is_cross_validation", "open_runs"]
