"""The commands that train a run again; where it comes from runs that recipes of the package make, those first."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from emotiw_keras.errors import UsageError
from emotiw_keras.files import expanded
from emotiw_keras.run_facts import FOLDS_FILE, read_folds
from emotiw_keras.training.recipe import Recipe, load_recipe, parse_recipe, recipe_names
from emotiw_keras.training.recipe_tables import SourceSettings
from emotiw_keras.training.stage import Stage
from emotiw_keras.weights.shipped import shipped_models

if TYPE_CHECKING:
    from emotiw_keras.runs import Run

RUNS = "runs/"
"""Where the package's recipes look for the runs that they start from."""
VOTES = SourceSettings(votes="fer2013new.csv")
"""What a recipe that takes votes is told where nobody says where they are."""


def made_before(recipe: Recipe, lacking: bool = False) -> list[Recipe]:
    """The package's recipes for the runs that a recipe starts from and is taught by, in the order in which they are trained;
    with `lacking` only for what is not there."""
    found: dict[str, Recipe] = {}
    teachers = (name for stage in recipe.stages if isinstance(stage, Stage) for name in stage.teachers)
    for place in (recipe.model.weights, *teachers):
        name = place.removeprefix(RUNS)
        if name != place and name in recipe_names() and not (lacking and expanded(place).exists()):
            one = load_recipe(name)
            found |= {each.name: each for each in (*made_before(one, lacking), one)}
    return list(found.values())


def how_to_make(place: str, source: Mapping[str, SourceSettings] | None = None, by_name: str = "give its name alone") -> str:
    """The end of a message that there is no run at `place`: that a model of this name ships, and how it is named (`by_name`);
    else the commands that make it, if it is called as one of the package's recipes; of the runs that it comes from those that
    are not there. `source` says where votes are, if anything does."""
    name = Path(place).name
    if name in shipped_models():
        return f"; the model {name} ships: {by_name}"
    if name not in recipe_names():
        return ""
    recipe = load_recipe(name)
    places = [(each, RUNS + each.name) for each in made_before(recipe, lacking=True)] + [(recipe, place)]
    commands = [_fit(each.name, _to_give(each), _votes(each, source or {}), out) for each, out in places]
    return f"; {', then '.join(f'`{each}`' for each in commands)} {'makes' if len(commands) == 1 else 'make'} it"


def fit_commands(run: Run, place: Callable[[str], str] = str) -> str:
    """The commands that train a run again from its own recipe, as far as it knows, a line each; for a model that ships also
    those for the runs that it comes from, and the one that packs it. Each path in them is as `place` gives it."""
    data, source = _given(run, place)
    if not run.ships:
        folder = Path(place(str(run.path)))
        of_folds = (run.path.parent / FOLDS_FILE).is_file()  # a folder that takes no other runs
        out = folder.parent.parent / f"{folder.name}-again" if of_folds else f"{folder}-again"
        return _fit(str(folder / "recipe.toml"), data, source, str(out))
    last, again = load_recipe(run.info["recipe"]), f"{run.name}-again"
    lines = [_fit(each.name, data, _votes(each, source), RUNS + each.name) for each in made_before(last)]
    lines.append(_fit(last.name, data, source, again))
    pack = ["emotiw", "pack", again, f"{again}-packed", "--data", *data.values(), "--crops", str(run.crops)]
    pack += ["--head", run.head.name] if run.head is not None else []
    for each in source.values():
        pack += ["--votes", each.votes] if each.votes else []
        pack += ["--votes-rows", each.votes_rows] if each.votes_rows else []
    return "\n".join([*lines, shlex.join(pack)])


def folds_command(folder: Path, run: Run, place: Callable[[str], str] = str) -> str:
    """The command that trains the runs of a cross-validation in `folder` again, from the recipe of its first run."""
    facts, there = read_folds(folder), place(str(folder))
    more = ["--set", f"source.{facts['data']}.folds=0", "--folds", str(facts["folds"])]
    more += ["--refit"] if facts["refit"] else []
    return _fit(str(Path(there) / run.name / "recipe.toml"), *_given(run, place), f"{there}-again", more)


def _given(run: Run, place: Callable[[str], str]) -> tuple[dict[str, str], dict[str, SourceSettings]]:
    """Where a run's data lay, and their votes."""
    paths = {name: place(path) for name, path in run.info.get("sources", {}).items()}
    data = {name: paths.get(name, "PATH") for name in run.info.get("data", paths)}
    source = {
        name: replace(each, votes=place(each.votes), votes_rows=place(each.votes_rows))
        for name, each in _sources(run).items()
        if name in data
    }
    return data, source


def _to_give(recipe: Recipe) -> dict[str, str]:
    """The data that a recipe does not have by itself."""
    return {name: "PATH" for name in recipe.data if not (name in recipe.source and recipe.source[name].path)}


def _votes(recipe: Recipe, source: Mapping[str, SourceSettings]) -> dict[str, SourceSettings]:
    """Where the votes of a recipe's data are, if one of its heads learns from them."""
    if "ferplus8" not in dict(recipe.model.heads).values():
        return {}
    return {name: source[name] if name in source and source[name].votes else VOTES for name in recipe.data}


def _sources(run: Run) -> Mapping[str, SourceSettings]:
    """What a run's own recipe says of its data; nothing where it has none that this version reads."""
    if not (run.path / "recipe.toml").is_file():
        return {}
    try:
        return parse_recipe(run.content("recipe.toml").decode("utf-8"), str(run.path)).source
    except (UsageError, UnicodeDecodeError):
        return {}


def _fit(
    recipe: str, data: Mapping[str, str], source: Mapping[str, SourceSettings], out: str, more: Sequence[str] = ()
) -> str:  # fmt: skip
    words = ["emotiw", "fit", recipe]
    for name, path in data.items():
        words += ["--data", f"{name}={path}"]
    for name, each in source.items():
        for key in ("votes", "votes_rows"):
            words += ["--set", f"source.{name}.{key}={getattr(each, key)}"] if getattr(each, key) else []
    return shlex.join([*words, *more, "--out", out])
