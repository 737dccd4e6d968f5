"""The claim on a run folder: nothing is written there before all has been found good, and by one process at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from emotiw_keras.locking import locked, sweep
from emotiw_keras.talk import Notice
from emotiw_keras.training.run_writer import move_aside, resumable, start_or_resume

OTHER_WEIGHTS = (
    "{folder} goes on with its own weights; those that the network was given with are others than it began with, and are not "
    "taken (another run_dir would begin with them)"
)


class Claim:
    """A run folder that is about to be written; in a `with` block, which holds it once it is taken.

    Args:
        folder: the run folder.
        recipe_toml: the recipe as run.
        info: what run.json will hold.
        say: takes lines for people.
        restart: whether a run that is there is renamed.

    Attributes:
        resumes: whether a run is there that goes on, or is finished.

    Raises:
        RunError: the folder is something else, or was made from another recipe or other data.
        OutputError: it is a file.
    """

    def __init__(
        self, folder: Path, recipe_toml: str, info: dict[str, Any], say: Callable[[str], None], restart: bool = False
    ) -> None:
        self._folder, self._recipe, self._info, self._say, self._restart = folder, recipe_toml, info, say, restart
        self._held = ExitStack()
        self.resumes = not restart and resumable(folder, recipe_toml, info) is not None

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._held.close()

    def take(self, rows: Iterable[Mapping[str, Any]], videos: bool) -> dict[str, Any]:
        """Make the run folder, or go on with the one there; see `run_writer.start_or_resume`."""
        if self._restart and self._folder.exists():
            with locked(self._folder, self._waiting):
                self._say(f"the old run is kept as {move_aside(self._folder)}")
        self._held.enter_context(locked(self._folder, self._waiting))
        sweep(self._folder)
        info = start_or_resume(self._folder, self._recipe, self._info, rows, videos)
        began = [each.get("began_with") for each in (info, self._info)]
        if None not in began and began[0] != began[1]:
            self._say(Notice(OTHER_WEIGHTS.format(folder=self._folder)))
        if info is not self._info and not info["finished"]:
            for line in _changes(info, self._info):
                self._say(Notice(line))
        return info

    def _waiting(self) -> None:
        self._say(Notice(f"another process trains in {self._folder}; waiting for it"))


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What a run that goes on keeps although it would be begun otherwise now, and what it cannot keep."""
    lines = [
        f"going on with {key} = {old[key]}, as the run began, not {new[key]}, so that it ends as it would have without a stop"
        for key in ("threads", "precision")
        if old.get(key) != new[key] and key in old
    ]
    versions = old.get("versions", {})
    lines += [
        f"warning: the run began with {name} {versions.get(name, 'unknown')}, goes on with {version}: last digits may differ"
        for name, version in new["versions"].items()
        if versions.get(name) != version
    ]
    return lines
