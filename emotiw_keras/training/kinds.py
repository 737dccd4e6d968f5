"""The kinds of entries that a recipe can list, each with its table of TOML; `training` knows them through this door alone.

A kind is a module with a `KIND`. `KINDS` names the modules, so that what is trained here need not know what trains it: to add a
kind, subclass `Kind` and name its module. Another entry of the same table (chosen by a word of it, as `optimizer` is) needs no
kind of its own: `Kind.read` makes of a table the `Part` that fits.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from emotiw_keras.training.checked_fields import from_table
from emotiw_keras.training.stage import Part

if TYPE_CHECKING:
    import keras
    import numpy as np

    from emotiw_keras.data.batches import Pool
    from emotiw_keras.data.face_input import FaceInput
    from emotiw_keras.runs import Run
    from emotiw_keras.training.epoch_progress import Progress
    from emotiw_keras.training.prepared_data import Prepared
    from emotiw_keras.training.recipe import Recipe
    from emotiw_keras.training.replicas import Replicas

KINDS = {"stage": "emotiw_keras.training.stages", "search": "emotiw_keras.pathnet.kind"}
"""Table of a recipe -> the module of its kind."""


@dataclass(frozen=True)
class Job:
    """What a run gives to whatever trains in it.

    Attributes:
        folder: the run folder.
        info: what run.json holds, or will hold.
        model: the network to train; None makes the recipe's.
        face_input: bytes to network input; None where the network takes its data as they are.
        pool: images by data set and positions; None where there are none.
        say: takes lines for people.
        progress: shows epochs under way.
        metrics, callbacks: Keras objects for every stage.
        replicas: devices and processes that train together; None is this process on one device.
    """

    folder: Path
    info: dict[str, Any]
    model: keras.Model | None
    face_input: FaceInput | None
    pool: Callable[[Mapping[str, np.ndarray]], Pool | None]
    say: Callable[[str], None]
    progress: Progress | None
    metrics: tuple[keras.metrics.Metric, ...] = ()
    callbacks: tuple[keras.callbacks.Callback, ...] = ()
    replicas: Replicas | None = None


class Loop(Protocol):
    """What trains the entries of a recipe, one after another."""

    def check(self) -> None:
        """Find what is impossible before anything is written."""

    def fit(self) -> Run | None:
        """Train all entries, or those that are left; the finished run, or None on a worker that does not write it."""


class Kind:
    """What differs between kinds of recipes.

    Attributes:
        part: the settings of an entry.
        tables: what other tables such a recipe has, and their settings.
        selects: whether an entry's `val` chooses its best epoch, or only measures.
        tasks: whether each entry is a task of its own, with its own classes and outputs.
        shared: whether several devices and processes can train an entry together.
    """

    part: ClassVar[type[Part]]
    tables: ClassVar[Mapping[str, type]] = {}
    selects: ClassVar[bool] = True
    tasks: ClassVar[bool] = False
    shared: ClassVar[bool] = False

    def read(self, table: Any, where: str) -> Part:
        """An entry of its table; SettingError where it cannot be meant."""
        return from_table(self.part, table, where)

    def settle(self, entries: Sequence[dict[str, Any]], asked: Mapping[tuple[int, str], bool]) -> list[str]:
        """Take what changes left without a use out of the tables of a recipe's entries, and say so.

        Args:
            entries: with every default filled in, as changed.
            asked: number of an entry and key -> whether the change was one of every entry; SettingError where it has no use.
        """
        return []

    def check(self, recipe: Recipe) -> None:
        """Refuse, by a SettingError, what does not fit together in a recipe."""

    def describe(self, prepared: Prepared, folder: Path, say: Callable[[str], None]) -> None:
        """What a run would be, for a dry run."""
        raise NotImplementedError

    def loop(self, prepared: Prepared, job: Job) -> Loop:
        """What trains; nothing is written yet."""
        raise NotImplementedError

    def result(self, entry: Mapping[str, Any], score: str) -> str:
        """A line on what became of an entry: of it as run.json has it, and its figures in words."""
        raise NotImplementedError


def kind_of(table: str) -> Kind:
    """The kind of the entries of a table of `KINDS`."""
    kind: Kind = importlib.import_module(KINDS[table]).KIND
    return kind
