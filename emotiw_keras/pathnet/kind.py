"""`[[search]]`: searches for a path, one task after another, and `[pathnet]`, the modules that they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from emotiw_keras.pathnet.search import PathNetSettings, Search
from emotiw_keras.text import number_of
from emotiw_keras.training.checked_fields import SettingError
from emotiw_keras.training.kinds import Job, Kind, Loop

if TYPE_CHECKING:
    from emotiw_keras.training.prepared_data import Prepared
    from emotiw_keras.training.recipe import Recipe


class Searches(Kind):
    """Searches for a path."""

    part = Search
    tables: ClassVar[Mapping[str, type]] = {"pathnet": PathNetSettings}
    selects = False
    tasks = True

    def check(self, recipe: Recipe) -> None:
        """Searches are of PathNet alone, and what is not new comes from somewhere."""
        if recipe.model.name != "pathnet":
            raise SettingError(f"name of model is {recipe.model.name!r}; [[search]] needs 'pathnet'", "name")
        if recipe.keep != "last":
            raise SettingError(f"keep is {recipe.keep!r}; a search keeps the path of its last task", "keep")
        if recipe.precision == "mixed_float16":
            raise SettingError("precision is 'mixed_float16'; a search computes in float32 or mixed_bfloat16", "precision")
        first, given = recipe.stages[0], recipe.model.weights != "none"
        if (first.start == "new") == given:
            told = "needs the run of a search as weights" if not given else "uses no weights; set start to transfer or finetune"
            raise SettingError(f"start of search {first.name!r} is {first.start!r}, which {told}", "start")

    def describe(self, prepared: Prepared, folder: Path, say: Callable[[str], None]) -> None:
        from emotiw_keras.pathnet.estimate import describe

        describe(prepared, folder, say)

    def loop(self, prepared: Prepared, job: Job) -> Loop:
        from emotiw_keras.pathnet.search_sequence import SearchLoop

        return SearchLoop(prepared, job)

    def result(self, entry: Mapping[str, Any], score: str) -> str:
        from emotiw_keras.pathnet.evolution import path_text

        shared = sum(map(len, entry["reused"]))
        return (
            f"search {entry['name']}: path {path_text(entry['path'])} after {number_of(entry['generations'], 'generations')}, "
            f"{shared} of its modules frozen before{score}"
        )


KIND = Searches()
