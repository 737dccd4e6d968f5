"""PathNet's transfer against its controls: both directions, several seeds, subject folds, at the same number of minibatches.

For each seed a path is searched for each of two sets from new modules ("scratch"). From the one's best path the other is learnt
in two ways: by a search in which that path is frozen and can be used ("transfer"), and by training it on ("finetune"). Every
run is a run folder of its own, so a study that was stopped goes on where it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emotiw_keras.data.columns import pick
from emotiw_keras.data.near.groups import photographs
from emotiw_keras.errors import UsageError
from emotiw_keras.evaluation.assessment import figures
from emotiw_keras.evaluation.evaluate import assess
from emotiw_keras.files import check_replaced, local_path, real, write_atomic
from emotiw_keras.runs import Run
from emotiw_keras.sealed import kept
from emotiw_keras.studies.under_way import run_of_study, tells_more
from emotiw_keras.text import csv_text, markdown_words, number_of
from emotiw_keras.training.fit import fit
from emotiw_keras.training.prepared_data import prepare
from emotiw_keras.training.recipe import Recipe, recipe_from_table
from emotiw_keras.training.start import start_tensorflow

METHODS = ("scratch", "transfer", "finetune")
COLUMNS = (
    "seed", "fold", "source", "target", "method", "generations", "reached_target", "minibatches", "reused", "modules",
    "fitness", "val_accuracy", "split", "n", "persons", "accuracy", "low", "high", "macro_f1", "unseen_n", "unseen_accuracy",
    "seconds", "run",
)  # fmt: skip
RESULTS_FILE, TABLE_FILE = "results.csv", "results.md"


@dataclass(frozen=True)
class Step:
    """One run of a study: what is learnt (`target`), how, and from which set's path (`source`, "" for scratch)."""

    seed: int
    fold: int | None
    source: str
    target: str
    method: str

    @property
    def folder(self) -> str:
        """Its run folder below the study's."""
        fold = "" if self.fold is None else f"-fold{self.fold}"
        way = self.target if self.method == "scratch" else f"{self.source}-to-{self.target}-{self.method}"
        return f"seed{self.seed}{fold}/{way}"


def folds_of(recipe: Recipe, name: str) -> int:
    """How many folds a set is cut into, 0 for none."""
    return recipe.source[name].folds if name in recipe.source else 0


def steps_of(recipe: Recipe, seeds: Sequence[int], folds: bool) -> list[Step]:
    """The runs of a study in an order in which each finds what it starts from.

    Args:
        recipe: two searches on two sets.
        seeds: of the study.
        folds: whether every fold of a set is held out in turn.

    Raises:
        UsageError: not a recipe of two searches on two sets, or sets without folds.
    """
    if recipe.table != "search" or len(recipe.stages) != 2 or len(recipe.data) != 2:
        raise UsageError(f"recipe {recipe.name!r}: a study needs [[search]] tables for two sets, as pathnet-transfer has")
    one, two = (search.train[0].partition(":")[0] for search in recipe.stages)
    if one == two:
        raise UsageError(f"recipe {recipe.name!r}: both searches train on {one!r}; give two names, which may be one set")
    turns: dict[str, Sequence[int | None]] = {one: (None,), two: (None,)}
    if folds:
        turns = {name: range(folds_of(recipe, name)) for name in (one, two)}
        if not all(turns.values()):
            wanted = " and ".join(f"source.{name}.folds" for name in (one, two))
            raise UsageError(f"recipe {recipe.name!r}: both sets need folds; set {wanted}")
    found = []
    for seed in seeds:
        found += [Step(seed, fold, "", target, "scratch") for target in (one, two) for fold in turns[target]]
        for source, target in ((one, two), (two, one)):
            found += [Step(seed, fold, source, target, method) for fold in turns[target] for method in METHODS[1:]]
    return found


def study(
    recipe: Recipe,
    paths: Mapping[str, str],
    out: str | Path,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    folds: bool = False,
    split: str = "test",
    threads: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Run what is missing of a study, score it, and write results.csv and results.md.

    Args:
        recipe: two searches on two sets, as `pathnet-transfer`; their settings are those of all runs.
        paths: data set name -> path; both may be one path, with other `train_folds`.
        out: the study's folder.
        seeds: of modules, paths, minibatches and splits.
        folds: hold out every fold of a set in turn; otherwise the recipe's.
        split: what is scored.
        threads: processor threads; None takes all.
        say: takes lines for people.

    Returns:
        One row a run, the columns those of results.csv.

    Raises:
        UsageError: a recipe that is no study's, folds of sets that have none, or one set cut into other folds as the other.
        OutputError: there are results that are no study's in `out`, or nothing can be written there.
        EmotiwError: as `fit` and `evaluate`.
    """
    folder = local_path(out)
    check_replaced(folder, {RESULTS_FILE: "seed,fold,source,target,", TABLE_FILE: ""}, "a study")
    rows: list[dict[str, Any]] = []
    auto: str | None = None
    steps = steps_of(recipe, seeds, folds)
    check_cuts(recipe, paths)
    start_tensorflow(threads)  # a run that is finished is scored at once, with all threads else
    say(f"looks at {' and '.join(recipe.data)}: whether both can be used, and which photographs both hold")
    numbers = photograph_numbers({step.target: step_recipe(recipe, step, folder) for step in reversed(steps)}, paths, say)
    for number, step in enumerate(steps, 1):
        say(f"{number} of {len(steps)}: {step.folder}")
        chosen = step_recipe(recipe, step, folder)
        with run_of_study(folder / step.folder):
            outcome = fit(chosen, {step.target: paths[step.target]}, folder / step.folder, threads=threads, say=say, auto=auto)
        assert outcome.run is not None
        auto = outcome.precision
        rows.append(score(step, outcome.run, paths[step.target], split, numbers))
        if tells_more(folder / RESULTS_FILE, len(rows), len(steps)):
            continue
        # After each run, so that a study under way can be read.
        write_atomic(folder / RESULTS_FILE, csv_text([COLUMNS, *([row[name] for name in COLUMNS] for row in rows)]))
        write_atomic(folder / TABLE_FILE, "\n".join(table(rows)) + "\n")
    return rows


def check_cuts(recipe: Recipe, paths: Mapping[str, str]) -> None:
    """UsageError where one set is given twice and cut otherwise each time: what one trains on the other tests on."""
    one, two = recipe.data
    if real(Path(paths[one])) == real(Path(paths[two])) and folds_of(recipe, one) != folds_of(recipe, two):
        cuts = " and ".join(f"source.{name}.folds = {folds_of(recipe, name)}" for name in (one, two))
        raise UsageError(f"{one} and {two} are one set, {paths[one]}, with {cuts}; expected as many folds of both")


def photograph_numbers(first: Mapping[str, Recipe], paths: Mapping[str, str], say: Callable[[str], None]) -> dict[str, int]:
    """Read both sets: a fault of the second is told before the first is searched.

    Args:
        first: set name -> the first run on it.
        paths, say: as `study` has them.

    Returns:
        Pixel hash -> number, the same for near duplicates, of sets in which these are looked for.
    """
    sets = {name: prepare(recipe, {name: paths[name]}, auto="float32").sets[name] for name, recipe in first.items()}
    found, _ = photographs(sets, say)
    return {digest: int(n) for name in found for digest, n in zip(sets[name].pixel_hash, found[name], strict=True) if digest}


def step_recipe(recipe: Recipe, step: Step, folder: Path) -> Recipe:
    """The recipe of one run: one search on one set, from new modules or from another run's path."""
    table = recipe.to_table()
    (search,) = [each for each in table["search"] if each["train"][0].partition(":")[0] == step.target]
    search["start"] = "new" if step.method == "scratch" else step.method
    table["search"] = [search]
    table["data"] = [step.target]
    table["seed"] = step.seed
    table["name"] = f"{recipe.name}-{step.method}"
    source = table["source"].get(step.target)
    table["source"] = {step.target: source} if source else {}
    if source and step.fold is not None:
        table["source"][step.target]["fold"] = step.fold
    if step.source:
        # Sets of different numbers of folds: the source's come round again.
        fold = None if step.fold is None else step.fold % folds_of(recipe, step.source)
        scratch = Step(step.seed, fold, "", step.source, "scratch")
        table["model"]["weights"] = str(folder / scratch.folder)
    return recipe_from_table(table)


def score(step: Step, run: Run, path: str, split: str, numbers: Mapping[str, int]) -> dict[str, Any]:
    """A row of results.csv: what a run found, and its scores on a split, which are kept in its folder.

    Args:
        step, run: which.
        path, split: what is scored.
        numbers: of photographs (see `photograph_numbers`).
    """

    def scores() -> dict[str, Any]:
        asked = assess(run, path, split=split)
        known = run.seen()
        given = {numbers[digest] for digest in known["train"] | known["val"] if digest in numbers}
        near = np.array([numbers.get(digest) in given for digest in pick(asked.faces.pixel_hash, asked.indices)], bool)
        found = figures(asked.predictions, asked.seen | near, asked.question, selected_on=False)
        (low, high), unseen = found["accuracy_ci95"], found["leak_free"] or {"n": 0, "accuracy": None}
        told = {key: found[key] for key in ("n", "persons", "accuracy", "macro_f1")}
        return {**told, "low": low, "high": high, "unseen_n": unseen["n"], "unseen_accuracy": unseen["accuracy"]}

    def read(values: dict[str, Any]) -> dict[str, Any]:
        persons = values["persons"]
        return {
            **{key: int(values[key]) for key in ("n", "unseen_n")},
            **{key: float(values[key]) for key in ("accuracy", "low", "high", "macro_f1")},
            "persons": "" if persons is None else int(persons),
            "unseen_accuracy": "" if values["unseen_accuracy"] is None else float(values["unseen_accuracy"]),
        }

    scored = kept(run.path / f"figures-{split}.json", scores, read)
    (result,) = run.info["stages"]
    seconds = run.training_seconds
    return {
        "seed": step.seed,
        "fold": "" if step.fold is None else step.fold,
        "source": step.source,
        "target": step.target,
        "method": step.method,
        **{key: result[key] for key in ("generations", "reached_target", "minibatches", "fitness", "val_accuracy")},
        "reused": sum(map(len, result["reused"])),
        "modules": sum(map(len, result["path"])),
        "split": split,
        **scored,
        "seconds": round(seconds, 1),
        "run": step.folder,
    }


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval of Student's t; NaN ends for a single value, and for equal ones, which tell of no spread.

    Example:
        >>> interval([0.5, 0.7])[0]
        0.6
    """
    from scipy.stats import t

    array = np.asarray(values, np.float64)
    mean = float(array.mean())
    if np.ptp(array) < 1e-9:
        return mean, math.nan, math.nan
    half = float(t.ppf(0.975, len(array) - 1) * array.std(ddof=1) / math.sqrt(len(array)))
    return mean, mean - half, mean + half


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of Markdown: mean accuracy of each way to each set over seeds (and folds), and its difference from scratch."""
    lines = [
        "| to | from | method | runs | accuracy, mean (95 % over runs) | difference from scratch | generations | reused |",
        "|---|---|---|---:|---|---|---:|---:|",
    ]
    scratch = {(row["target"], row["seed"], row["fold"]): row["accuracy"] for row in rows if row["method"] == "scratch"}
    for (target, source, method), group in _groups(rows):
        whole, low, high = interval([row["accuracy"] for row in group])
        mean = _percent((whole, max(low, 0.0), min(high, 1.0)) if low == low else (whole, low, high))
        gains = [row["accuracy"] - scratch[row["target"], row["seed"], row["fold"]] for row in group]
        gain = "" if method == "scratch" else _percent(interval(gains), signed=True)
        generations = np.mean([row["generations"] for row in group])
        reused = "" if method == "scratch" else f"{np.mean([row['reused'] for row in group]):.1f}"
        names = f"{markdown_words(target)} | {markdown_words(source or '-')}"
        lines.append(f"| {names} | {method} | {len(group)} | {mean} | {gain} | {generations:.0f} | {reused} |")
    return [*lines, "", *_scored(rows)]


def _scored(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What was scored, in words: the split, images and persons of each set, and images that a run had in training."""
    (split,) = {row["split"] for row in rows}
    said = []
    for target in sorted({row["target"] for row in rows}):
        group = [row for row in rows if row["target"] == target]
        images, persons = {row["n"] for row in group}, {row["persons"] for row in group}
        whose = ["persons unknown"] if "" in persons else []
        if known := persons - {""}:
            whose.insert(0, _range(known, "persons"))
        said.append(f"{markdown_words(target)} {_range(images, 'images')} a run ({' or '.join(whose)})")
    yield f"Scored on the split {split}: {', '.join(said)}."
    leaky = [row for row in rows if row["unseen_n"] < row["n"]]
    if leaky:
        ways = ", ".join(dict.fromkeys(f"{row['source'] or 'scratch'} -> {row['target']}" for row in leaky))
        yield (
            f"CAUTION: in {len(leaky)} of {len(rows)} runs some of these images stand, the same or nearly, in a train or val "
            f"split of the sets it learnt from ({ways}); unseen_n and unseen_accuracy in {RESULTS_FILE} leave them out."
        )


def _range(counts: set[int], things: str) -> str:
    least, most = min(counts), max(counts)
    return number_of(most, things) if least == most else f"{least:,} to {most:,} {things}"


def _groups(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[tuple[str, str, str], list[Mapping[str, Any]]]]:
    keys = dict.fromkeys((row["target"], row["source"], row["method"]) for row in rows)
    for key in sorted(keys, key=lambda each: (each[0], METHODS.index(each[2]))):
        yield key, [row for row in rows if (row["target"], row["source"], row["method"]) == key]


def _percent(values: tuple[float, float, float], signed: bool = False) -> str:
    mean, low, high = (100 * value for value in values)
    plus = "+" if signed else ""
    spread = "" if math.isnan(low) else f" ({low:{plus}.1f} to {high:{plus}.1f})"
    return f"{mean:{plus}.1f} %{spread}"
