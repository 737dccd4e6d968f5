"""The study of Ng et al. 2015 on data at hand: is it better to fine-tune in two stages than directly, jointly or from nothing?

Every run is a run folder of its own below the study's, so a study that was stopped goes on where it was. A run on the large set
serves all that start from it, for every seed of the target stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from emotiw_keras.errors import DivergedError, UsageError
from emotiw_keras.evaluation.assessment import Predictions
from emotiw_keras.evaluation.metrics import scores
from emotiw_keras.runs import Run
from emotiw_keras.sealed import kept
from emotiw_keras.studies.staged_arms import (
    LARGE,
    PARTS,
    SMALL,
    Arm,
    Net,
    Step,
    arms_of,
    chain_of,
    check_changes,
    lengthened,
    recipe_of,
    steps_of,
    updates_of,
)
from emotiw_keras.studies.under_way import run_of_study
from emotiw_keras.training.fit import fit
from emotiw_keras.training.run_writer import refuse_links
from emotiw_keras.training.start import named_run, start_tensorflow


@dataclass(frozen=True)
class Row:
    """An arm's answers on the target's test images, seed by seed.

    Attributes:
        arm: what was done.
        answers: seed -> what it said of the test images of that seed's split.
        large_accuracy: accuracy on the large set's test split where that chose nothing; None elsewhere.
        seconds: of training, all runs together, those that other arms use too included.
        updates: of one seed's trainings to their last epochs, from the net's own weights on.
    """

    arm: Arm
    answers: Mapping[int, Predictions]
    large_accuracy: float | None
    seconds: float
    updates: int = 0

    def figures(self) -> list[dict[str, Any]]:
        """`scores` of each seed."""
        return [_scores(each) for each in self.answers.values()]

    def pooled(self) -> dict[str, Any]:
        """`scores` of the answers of all seeds together, for their intervals: by person, who counts once in all splits. An
        image of an unknown person stands for itself, in several splits too."""
        parts = list(self.answers.values())
        if len(parts) == 1:
            return _scores(parts[0])
        named = np.array([person for each in parts for person in each.subject or [""] * len(each.paths)], object)
        paths = np.array([path for each in parts for path in each.paths], object)
        truth, probabilities = (np.concatenate([getattr(each, key) for each in parts]) for key in ("truth", "probabilities"))
        known, labels = named != "", parts[0].labels
        result = _scores(Predictions(labels, (), (), truth, probabilities, np.where(known, named, paths).tolist()))

        def persons(of: np.ndarray) -> int | None:
            return len(set(named[of & known])) if known.any() else None

        result |= {"persons": persons(known), "person_unknown": int((~known).sum())}
        for place, label in enumerate(labels):
            result["per_class"][label]["persons"] = persons(truth == place)
        return result


def _scores(answers: Predictions) -> dict[str, Any]:
    return scores(answers.truth, answers.probabilities, answers.labels, subject=answers.subject)


def study(
    nets: Sequence[Net],
    paths: Mapping[str, str],
    out: str | Path,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    large_seeds: int = 1,
    parts: Sequence[str] = PARTS,
    changes: Sequence[str] = (),
    precision: str | None = None,
    threads: int | None = None,
    say: Callable[[str], None] = lambda line: None,
    finished: Callable[[list[Row]], None] = lambda rows: None,
) -> list[Row]:
    """Run what is missing of a study and score it.

    Args:
        nets: networks and their weights.
        paths: the large set as "fer" and the small one as "target".
        out: the study's folder.
        seeds: of the target's splits and stages.
        large_seeds: how many runs on the large set.
        parts: some of `PARTS`.
        changes: as `--set` takes them, for all runs that have such a stage or set.
        precision: arithmetic; None leaves it to the recipes.
        threads: processor threads; None takes all.
        say: takes lines for people.
        finished: called with the rows so far after each one, so that a study under way can be read.

    Returns:
        One row an arm.

    Raises:
        UsageError: changes that no run takes, or no networks.
        ModelError: weights that are not there.
        DivergedError: after all others, where trainings diverged: it names the ways that have no row.
        EmotiwError: as `fit` and `evaluate`.

    Example:
        >>> study([Net("squeezenet", "squeezenet.npz")], {"fer": "fer.zip", "target": "faces"}, "study")  # doctest: +SKIP
    """
    check_changes(changes)
    if not nets or len({net.name for net in nets}) < len(nets):
        raise UsageError(f"a study needs one or more different networks; got {', '.join(net.name for net in nets) or 'none'}")
    check_weights(nets)
    folder = Path(out)
    refuse_links(folder)
    arms = [arm for net in nets for arm in arms_of(net, seeds, large_seeds, parts)]
    steps = steps_of(arms)
    runs: dict[Step, Run] = {}
    diverged: dict[Step, DivergedError] = {}
    left_out: list[str] = []
    rows: list[Row] = []
    auto: str | None = None
    start_tensorflow(threads)  # a run that is finished is asked at once, with all threads else
    for arm in arms:
        needed = steps_of([arm])
        for step in needed:
            if step in runs or any(each in diverged for each in chain_of(step)):
                continue
            say(f"{steps.index(step) + 1} of {len(steps)}: {step.folder}")
            recipe = recipe_of(lengthened(step, runs), changes, folder, precision, say)
            try:
                given = {name: paths[name] for name in recipe.data}
                with run_of_study(folder / step.folder):
                    outcome = fit(recipe, given, folder / step.folder, threads=threads, say=say, auto=auto)
            except DivergedError as error:
                diverged[step] = error
                say(str(error))
                continue
            assert outcome.run is not None
            runs[step], auto = outcome.run, outcome.precision
        if all(step in runs for step in needed):
            rows.append(_row(arm, runs, paths, say))
            finished(rows)
        else:
            left_out.append(f"{arm.net.name} {arm.key}")
    if left_out:
        first = next(iter(diverged.values()))
        raise DivergedError(
            f"{len(left_out)} of {len(arms)} ways are left out, as trainings for them diverged: {', '.join(left_out)}; the "
            f"others are finished. The first: {first}"
        )
    return rows


def check_weights(nets: Sequence[Net]) -> None:
    """ModelError for weights that are not there: before hours of training from nothing, which stand first."""
    from emotiw_keras.models.weights_argument import find

    for net in nets:
        asked = f"--net {net.name}="
        if named_run(net.name, net.weights, asked) is None and net.pretrained:
            find(net.weights, net.name, none=f"{asked}none")


def _row(arm: Arm, runs: Mapping[Step, Run], paths: Mapping[str, str], say: Callable[[str], None]) -> Row:
    answers = {}
    for seed, steps in arm.runs.items():
        given = [_answers(runs[step], paths[SMALL], arm.crops, say) for step in steps]
        mean = np.asarray(np.mean([each.probabilities for each in given], axis=0, dtype=np.float64), np.float32)
        answers[seed] = _of_test(replace(given[0], probabilities=mean), _test_images(seed, runs))
    last = list(dict.fromkeys(step for steps in arm.runs.values() for step in steps))
    large = None
    if all(step.recipe == "ng2015-fer28" for step in last):
        large = float(np.mean([_large_accuracy(runs[step], paths[LARGE]) for step in last]))
    updates = sum(updates_of(step, runs) for step in next(iter(arm.runs.values())))
    return Row(arm, answers, large, sum(runs[step].training_seconds for step in _needed(arm)), updates)


def _needed(arm: Arm) -> list[Step]:
    """The runs that made an arm's weights."""
    steps = (step for runs in arm.runs.values() for step in runs)
    return list(dict.fromkeys(each for step in steps for each in (step.start, step) if each is not None))


def _test_images(seed: int, runs: Mapping[Step, Run]) -> dict[str, str]:
    """Names of the target's test images in the split of a seed, and their persons, as a run that was given that split tells."""
    for step, run in runs.items():
        if step.seed == seed and SMALL in run.info["data"]:
            rows = (row for row in run.each_row() if row["data"] == SMALL and row["split"] == "test")
            return {row["path"]: row["subject"] for row in rows}
    raise UsageError("the study has no run on the target yet; the part core comes first")


def _answers(run: Run, source: str, crops: int, say: Callable[[str], None]) -> Predictions:
    """What a run says of every image of the target; kept in its folder, and asked once."""
    from emotiw_keras.evaluation.evaluate import assess

    def answers() -> dict[str, Any]:
        say(f"  asking {run.path} about {source}, {crops} crop{'s' if crops > 1 else ''}")
        found = assess(run, source, split="all", crops=crops).predictions
        return {
            "paths": found.paths,
            "status": found.status,
            "truth": found.truth.tolist(),
            "said": found.probabilities.tolist(),
            "subject": list(found.subject),
        }

    def read(table: dict[str, Any]) -> Predictions:
        probabilities = np.array(table["said"], np.float32).reshape(len(table["paths"]), len(run.labels))  # null is NaN
        return Predictions(
            run.labels, list(table["paths"]), list(table["status"]), np.array(table["truth"], int), probabilities,
            tuple(table["subject"]),
        )  # fmt: skip

    return kept(run.path / f"target-answers-{crops}.json", answers, read)


def _of_test(predictions: Predictions, wanted: Mapping[str, str]) -> Predictions:
    """The readable ones among the test images, with the persons they show."""
    part = predictions.select(np.flatnonzero([path in wanted for path in predictions.paths] & predictions.readable))
    persons = [wanted[path] for path in part.paths]
    return replace(part, subject=persons if any(persons) else ())


def _large_accuracy(run: Run, source: str) -> float:
    from emotiw_keras.evaluation.evaluate import evaluate

    return kept(run.path / "large-accuracy.json", lambda: evaluate(run, source, split="test")["accuracy"], float)
