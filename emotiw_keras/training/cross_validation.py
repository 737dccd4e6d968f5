"""`emotiw fit --folds`: one run for each fold of a set, each tested on what it was not given, and one of all data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotiw_keras.errors import RunError, UsageError
from emotiw_keras.files import local_path, write_atomic
from emotiw_keras.fold_runs import FoldRuns
from emotiw_keras.locking import sweep_beside
from emotiw_keras.run_facts import FINAL, FOLD_NAMES, FOLDS_FILE, fold_name, folds_facts, read_folds
from emotiw_keras.sealed import sealed_json
from emotiw_keras.training.epoch_progress import silent
from emotiw_keras.training.fit import Outcome, fit
from emotiw_keras.training.prepared_data import prepare
from emotiw_keras.training.recipe import Recipe
from emotiw_keras.training.recipe_tables import SourceSettings
from emotiw_keras.training.run_writer import check_out, check_own, move_aside, refuse_links
from emotiw_keras.training.stage import Stage

if TYPE_CHECKING:
    from emotiw_keras.training.epoch_progress import Progress


def folded_set(recipe: Recipe) -> str:
    """The data set that folds cut: the one that the last stage trains on.

    Raises:
        UsageError: a recipe whose folds would mean nothing.
    """
    if not all(isinstance(stage, Stage) for stage in recipe.stages):
        raise UsageError(f"--folds is for recipes of stages; recipe {recipe.name!r} lists [[{recipe.table}]]")
    names = sorted({reference.partition(":")[0] for reference in recipe.stages[-1].train})
    if len(names) > 1:
        raise UsageError(f"--folds cuts one data set; the last stage of recipe {recipe.name!r} trains on {', '.join(names)}")
    (name,) = names
    for stage in recipe.stages:
        for reference in (*stage.train, *stage.val):
            if reference in (f"{name}:test", f"{name}:all"):
                raise UsageError(f"--folds tests each run on {name}:test, but {stage.where} is given {reference}")
    if recipe.source.get(name, SourceSettings()).folds:
        raise UsageError(f"--folds beside source.{name}.folds = {recipe.source[name].folds}; leave one of them out")
    return name


def of_fold(recipe: Recipe, name: str, count: int, fold: int, *, held_out: bool = True) -> Recipe:
    """The recipe of one run.

    Args:
        recipe: of all.
        name: the data set that is cut.
        count: folds.
        fold: the one that is test; without `held_out` it is val, and all others train.
        held_out: whether a fold is kept for testing.
    """
    source = replace(recipe.source.get(name, SourceSettings()), folds=count, fold=fold, held_out=held_out)
    return replace(recipe, source={**recipe.source, name: source})


def cross_validate(
    recipe: Recipe,
    paths: Mapping[str, str],
    out: str | Path,
    folds: int,
    *,
    refit: bool = False,
    threads: int | None = None,
    restart: bool = False,
    dry_run: bool = False,
    say: Callable[[str], None] = silent,
    progress: Progress | None = None,
) -> tuple[FoldRuns | None, tuple[Outcome, ...]]:
    """Train a run for each fold into `out/fold-1`, `out/fold-2`, ...; called again after an interruption it goes on.

    The set is cut by person where all are known, else stratified, equal pictures and near duplicates together. Of each
    run one fold is test, the next one val. `emotiw_keras.evaluation.cross_validation` puts their answers together.

    Args:
        recipe: the training.
        paths: data set name -> path.
        out: the folder.
        folds: how many, at least 3.
        refit: also train `out/final` without a test fold: the model to be used, whose worth the folds tell.
        threads, restart, dry_run, say, progress: as for `fit`; a dry run describes the first fold.

    Returns:
        The runs (None after a dry run), and what `fit` said of each.

    Raises:
        UsageError: a recipe or number of folds that cannot be meant.
        RunError: `out` holds something else.
        EmotiwError: as `fit`.

    Example:
        >>> from emotiw_keras.training.recipe import load_recipe
        >>> cross_validate(load_recipe("finetune"), {"data": "my_faces"}, "runs/mine", 5)  # doctest: +SKIP
    """
    name, folder = folded_set(recipe), local_path(out)
    if folds < 3:
        raise UsageError(f"folds = {folds}: expected at least 3, one of which tests a run, one chooses, and the others train")
    chosen = {fold_name(number): of_fold(recipe, name, folds, number) for number in range(folds)}
    if refit:
        chosen[FINAL] = of_fold(recipe, name, folds, 0, held_out=False)
    facts = folds_facts(recipe.name, name, folds, refit)
    check_out(folder, paths, restart)
    if dry_run:
        if not restart:
            _claim(folder, facts)
        say(f"{len(chosen)} runs: {', '.join(chosen)}; the first one:")
        first = fit(
            next(iter(chosen.values())), paths, folder / fold_name(0), threads=threads, dry_run=True, restart=restart, say=say
        )
        return None, (first,)
    if restart and folder.exists():
        prepare(
            next(iter(chosen.values())), paths, threads=threads
        )  # data that cannot be used leave the old runs where they are
        say(f"the old runs are kept as {move_aside(folder)}")
    _claim(folder, facts)
    sweep_beside(folder / FOLDS_FILE)
    outcomes: list[Outcome] = []
    for number, (run, part) in enumerate(chosen.items(), 1):
        say(f"{number} of {len(chosen)}: {folder / run}")
        auto = outcomes[0].precision if outcomes else None
        outcomes.append(fit(part, paths, folder / run, threads=threads, say=say, progress=progress, auto=auto))
        # Only now, so that a mistake in the very first leaves nothing behind.
        write_atomic(folder / FOLDS_FILE, sealed_json(facts))
    return FoldRuns.open(folder), tuple(outcomes)


def _claim(folder: Path, facts: dict[str, Any]) -> None:
    """Refuse a folder of something else, and one whose runs were made otherwise."""
    check_own(folder, {FOLDS_FILE, *FOLD_NAMES}, "is not a folder of --folds")
    refuse_links(folder)
    if (folder / FOLDS_FILE).exists():
        old = read_folds(folder)
        changed = [f"{key}: {old[key]!r} -> {facts[key]!r}" for key in ("recipe", "data", "folds") if old[key] != facts[key]]
        if changed:
            raise RunError(f"{folder} was made otherwise ({'; '.join(changed)}); choose another --out, or --restart")
        facts["refit"] = bool(facts["refit"] or old["refit"])
