"""The study of Ng et al. 2015 on data at hand: is it better to fine-tune in two stages than directly, jointly or from nothing?

Every run is a run folder of its own below the study's, so a study that was stopped goes on where it was. A run on the large set
serves all that start from it, for every seed of the target stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emotiw_keras.errors import UsageError
from emotiw_keras.evaluation.assessment import Predictions
from emotiw_keras.evaluation.metrics import scores
from emotiw_keras.evaluation.significance import accuracy_difference_interval, holm, paired_test, person_numbers
from emotiw_keras.files import write_atomic
from emotiw_keras.runs import Run
from emotiw_keras.text import csv_text
from emotiw_keras.training.fit import fit
from emotiw_keras.training.recipe import Recipe, load_recipe, parse_recipe, recipe_text

if TYPE_CHECKING:
    from emotiw_keras.data.faceset import FaceSet

LARGE, SMALL = "fer", "target"
"""The data sets, by the names that the recipes give them."""
RESULTS_FILE, TABLE_FILE, PAGE_FILE = "results.csv", "results.md", "study.html"
PARTS = ("core", "budget", "rate", "amount", "remedies", "answers")
REMEDIES: dict[str, tuple[str, ...]] = {
    "balanced weights": ("class_weight=balanced",),
    "effective weights": ("class_weight=effective",),
    "focal loss": ("loss=focal",),
    "balanced sampling": ("sampling=balanced",),
    "cost in the loss": ("cost_weight=1.0",),
    "label smoothing": ("label_smoothing=0.1",),
}


@dataclass(frozen=True)
class Net:
    """A network of the zoo and the weights it starts from: "none", "imagenet", a weight file or a run folder."""

    name: str
    weights: str

    @property
    def pretrained(self) -> bool:
        """Whether it starts from weights at all."""
        return self.weights != "none"


@dataclass(frozen=True)
class Step:
    """One run: a shipped recipe with changes, from the net's weights, from those of another run, or from none.

    Attributes:
        net: which network.
        seed: of splits, weights, order and crops.
        name: the run folder's name.
        recipe: a shipped recipe.
        changes: as `--set` takes them, beyond those of the whole study.
        start: the run that gives the weights.
        blank: start from random weights even if the net has others.
        as_long_as: a run on the same images whose updates, those of the run it starts from included, this one makes as well.
    """

    net: Net
    seed: int
    name: str
    recipe: str
    changes: tuple[str, ...] = ()
    start: Step | None = None
    blank: bool = False
    as_long_as: Step | None = None

    @property
    def folder(self) -> Path:
        """Below the study's folder."""
        return Path(self.net.name, f"seed{self.seed}", self.name)


@dataclass(frozen=True)
class Arm:
    """A row of the table: for each seed of the target's splits the runs whose probabilities are averaged into its answer.

    Attributes:
        net: which network.
        key: short name, the same for all networks.
        description: what is done, in words.
        runs: seed -> runs, one unless it is an ensemble.
        crops: crops of a face whose probabilities are averaged.
    """

    net: Net
    key: str
    description: str
    runs: Mapping[int, tuple[Step, ...]]
    crops: int = 1


def arms_of(net: Net, seeds: Sequence[int], large_seeds: int, parts: Sequence[str]) -> list[Arm]:
    """What is compared for one network, in the table's order.

    Args:
        net: with or without weights to start from.
        seeds: of the target stage.
        large_seeds: how many runs there are on the large set; target stages take turns starting from them.
        parts: some of `PARTS`.
    """

    def large(name: str, recipe: str, seed: int, *changes: str) -> Step:
        return Step(net, seed % large_seeds, name, recipe, changes)

    def small(
        name: str, seed: int, start: Step | None, *changes: str, blank: bool = False, as_long_as: Step | None = None
    ) -> Step:
        own = tuple(f"target.{each}" for each in changes)
        return Step(net, seed, name, "ng2015-direct", own, start, blank, as_long_as)

    def each(make: Callable[[int], Step], of: Sequence[int] = seeds) -> dict[int, tuple[Step, ...]]:
        return {seed: (make(seed),) for seed in of}

    def only(name: str, recipe: str, *changes: str) -> dict[int, tuple[Step, ...]]:
        return each(lambda seed: large(name, recipe, seed, *changes))

    def staged(name: str, recipe: str, *changes: str) -> dict[int, tuple[Step, ...]]:
        return each(lambda seed: small(f"{name}-target", seed, large(name, recipe, seed, *changes)))

    found = []

    def add(key: str, description: str, runs: dict[int, tuple[Step, ...]], crops: int = 1) -> None:
        found.append(Arm(net, key, description, runs, crops))

    first = "ImageNet weights" if net.pretrained else "random weights"
    fer28, fer32 = ("fer28", "ng2015-fer28"), ("fer32", "ng2015-fer32")
    if "core" in parts:
        if net.pretrained:
            scratch = each(lambda seed: small("scratch", seed, None, blank=True))
            add("scratch", "random weights -> target", scratch)
        add("direct", f"{first} -> target", each(lambda seed: small("direct", seed, None)))
        add("fer28", f"{first} -> FER28, no target stage", only(*fer28))
        add("fer32", f"{first} -> FER32, no target stage", only(*fer32))
        add("joint", f"{first} -> FER32 and target together", each(lambda s: Step(net, s, "joint", "ng2015-joint"), seeds[:1]))
        add("fer28-target", f"{first} -> FER28 -> target", staged(*fer28))
        add("fer32-target", f"{first} -> FER32 -> target", staged(*fer32))
    if "budget" in parts:
        of_two = {seed: runs[0] for seed, runs in staged(*fer28).items()}
        long = each(lambda seed: small("direct-long", seed, None, as_long_as=of_two[seed]))
        add("direct-long", f"{first} -> target, with as many updates as by FER28", long)
    if "rate" in parts:
        faster = ("fer28-rate0.01", "ng2015-fer28", "fer.learning_rate=0.01")
        add("fer28-rate0.01", "learning rate 0.01 on FER28, no target stage", only(*faster))
        add("fer28-rate0.01-target", "learning rate 0.01 on FER28, then target", staged(*faster))
    if "amount" in parts:
        for share in (0.5, 0.25):
            part = (f"fer28-{share:.0%}".replace("%", "pc"), "ng2015-fer28", f"fer.train_share={share}")
            add(part[0], f"{share:.0%} of FER28, no target stage", only(*part))
            add(f"{part[0]}-target", f"{share:.0%} of FER28, then target", staged(*part))
    if "remedies" in parts:
        for name, changes in REMEDIES.items():
            key = f"fer28-target-{name.replace(' ', '-')}"
            runs = each(lambda s, key=key, changes=changes: small(key, s, large(*fer28, s), *changes))  # type: ignore[misc]
            add(key, f"FER28 -> target with {name}", runs)
    if "answers" in parts:
        one, two = staged(*fer28), staged(*fer32)
        add("fer28-target-mirror", "FER28 -> target, mean over the face and its mirror image", one, 2)
        add("fer28-target-ten-crop", "FER28 -> target, mean over ten crops", one, 10)
        add("ensemble", "mean of FER28 -> target and FER32 -> target", {seed: one[seed] + two[seed] for seed in seeds})
    return found


def steps_of(arms: Sequence[Arm]) -> list[Step]:
    """All runs of some arms, each once, in an order in which each finds what it starts from."""
    found: dict[Step, None] = {}
    for arm in arms:
        for runs in arm.runs.values():
            for step in runs:
                for each in _chain(step):
                    found.setdefault(each)
    return list(found)


def _chain(step: Step) -> list[Step]:
    """A run behind those that it needs."""
    before = [_chain(each) for each in (step.start, step.as_long_as) if each is not None]
    return [*chain.from_iterable(before), step]


def updates_of(step: Step, runs: Mapping[Step, Run]) -> int:
    """How many batches made its weights, those of the run it starts from included."""
    run = runs[step]
    stages = parse_recipe(run.content("recipe.toml").decode("utf-8"), str(run.path)).stages
    own = sum(
        done["epochs"] * -(-done["images"] // stage.batch_size) for stage, done in zip(stages, run.info["stages"], strict=True)
    )
    return own + (0 if step.start is None else updates_of(step.start, runs))


def lengthened(step: Step, runs: Mapping[Step, Run]) -> Step:
    """The run with epochs enough for the updates of `as_long_as`, its rate falling at the same shares of its time."""
    if step.as_long_as is None:
        return step
    run = runs[step.as_long_as]
    (stage,) = parse_recipe(run.content("recipe.toml").decode("utf-8"), str(run.path)).stages
    an_epoch = -(-run.info["stages"][0]["images"] // stage.batch_size)
    epochs = -(-updates_of(step.as_long_as, runs) // an_epoch)
    falls = max(1, round(stage.step_epochs * epochs / stage.epochs))
    return replace(step, changes=(*step.changes, f"target.epochs={epochs}", f"target.step_epochs={falls}"))


def recipe_of(step: Step, changes: Sequence[str], out: Path, precision: str | None = None) -> Recipe:
    """The recipe of one run; changes for stages or sets that it has not are those of other runs."""
    text = parse_recipe(recipe_text(step.recipe), step.recipe)
    known = {stage.name for stage in text.stages} | {"stage", "model", "preprocessing"}
    known |= {f"source.{name}" for name in text.data}
    fitting = [each for each in changes if (table := each.partition("=")[0].strip().rpartition(".")[0]) in known or not table]
    weights = str(out / step.start.folder) if step.start is not None else "none" if step.blank else step.net.weights
    own = [f"model.name={step.net.name}", f"model.weights={weights}", *step.changes, f"name={step.recipe}-{step.name}"]
    return load_recipe(step.recipe, [*fitting, *own], seed=step.seed, precision=precision)


def check_changes(changes: Sequence[str]) -> None:
    """Refuse a change that no run of a study would take.

    Raises:
        UsageError: it names no stage, set or table of any of the recipes.
    """
    tables = {"", "fer", "target", "joint", "stage", "model", "preprocessing", f"source.{LARGE}", f"source.{SMALL}"}
    for each in changes:
        name, equals, _ = each.partition("=")
        if not equals or name.strip().rpartition(".")[0] not in tables:
            known = ", ".join(sorted(tables - {""}))
            raise UsageError(f"--set {each!r}: expected TABLE.KEY=VALUE with TABLE one of {known}, or KEY=VALUE")


def read_sets(paths: Mapping[str, str], net: Net, changes: Sequence[str], out: Path) -> dict[str, FaceSet]:
    """Both data sets as the runs of the first seed read them, for images and counts."""
    from emotiw_keras.training.prepared_data import prepare

    recipe = recipe_of(Step(net, 0, "joint", "ng2015-joint"), changes, out)
    return prepare(recipe, paths).sets


def recipes_as_run(net: Net, changes: Sequence[str], precision: str | None, out: Path) -> dict[str, str]:
    """The four recipes as the runs of the first seed have them: name -> TOML with every setting."""
    names = ("ng2015-direct", "ng2015-fer28", "ng2015-fer32", "ng2015-joint")
    return {name: recipe_of(Step(net, 0, "plain", name), changes, out, precision).to_toml() for name in names}


@dataclass(frozen=True)
class Row:
    """An arm's answers on the target's test images, seed by seed.

    Attributes:
        arm: what was done.
        answers: seed -> what it said of the test images of that seed's split.
        large_accuracy: accuracy on the large set's test split where that chose nothing; None elsewhere.
        seconds: of training, all runs together, those that other arms use too included.
        updates: batches that made the weights that answer for one seed, from the net's own weights on.
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
        """`scores` of the answers of all seeds together, for their intervals: by person, who counts once in all splits."""
        parts = list(self.answers.values())
        if len(parts) == 1:
            return _scores(parts[0])
        subject = [person for each in parts for person in each.subject]
        if not subject:  # an image that several splits test is no two
            subject = [path for each in parts for path in each.paths]
        truth, probabilities = (np.concatenate([getattr(each, key) for each in parts]) for key in ("truth", "probabilities"))
        result = _scores(Predictions(parts[0].labels, (), (), truth, probabilities, subject))
        return result | {"persons": result["persons"] if parts[0].subject else None}


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
        EmotiwError: as `fit` and `evaluate`.

    Example:
        >>> study([Net("squeezenet", "squeezenet.npz")], {"fer": "fer.zip", "target": "faces"}, "study")  # doctest: +SKIP
    """
    check_changes(changes)
    if not nets or len({net.name for net in nets}) < len(nets):
        raise UsageError(f"a study needs one or more different networks; got {', '.join(net.name for net in nets) or 'none'}")
    folder = Path(out)
    arms = [arm for net in nets for arm in arms_of(net, seeds, large_seeds, parts)]
    steps = steps_of(arms)
    runs: dict[Step, Run] = {}
    rows: list[Row] = []
    for arm in arms:
        for step in steps_of([arm]):
            if step in runs:
                continue
            say(f"{steps.index(step) + 1} of {len(steps)}: {step.folder}")
            recipe = recipe_of(lengthened(step, runs), changes, folder, precision)
            outcome = fit(recipe, {name: paths[name] for name in recipe.data}, folder / step.folder, threads=threads, say=say)
            assert outcome.run is not None
            runs[step] = outcome.run
        rows.append(_row(arm, runs, paths, say))
        finished(rows)
    return rows


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
    from emotiw_keras.evaluation.predictions_csv import predictions_csv, read_predictions

    file = run.path / f"target-answers-{crops}.csv"
    if not file.exists():
        say(f"  asking {run.path} about {source}, {crops} crop{'s' if crops > 1 else ''}")
        write_atomic(file, predictions_csv(assess(run, source, split="all", crops=crops).predictions))
    return read_predictions(file, run.labels)


def _of_test(predictions: Predictions, wanted: Mapping[str, str]) -> Predictions:
    """The readable ones among the test images, with the persons they show."""
    part = predictions.select(np.flatnonzero([path in wanted for path in predictions.paths] & predictions.readable))
    persons = [wanted[path] for path in part.paths]
    return replace(part, subject=persons if any(persons) else ())


def _large_accuracy(run: Run, source: str) -> float:
    from emotiw_keras.evaluation.evaluate import evaluate

    file = run.path / "large-accuracy.txt"
    if not file.exists():
        write_atomic(file, f"{evaluate(run, source, split='test')['accuracy']!r}\n")
    return float(file.read_text("utf-8"))


@dataclass(frozen=True)
class Difference:
    """How an arm differs from another on the same test images, each image counted once; by person where any is known.

    Attributes:
        points: accuracy of the one less that of the other, mean over the seeds that both have.
        only_one, only_other: images that only the one, or only the other, has right.
        p: exact paired test on these (`significance.paired_test`).
        n: images.
        persons: persons they show, None if nobody is known.
        low, high: 95 % interval of the difference in accuracy of all these images, 0..1, by bootstrap.
    """

    points: float
    only_one: int
    only_other: int
    p: float
    n: int
    persons: int | None
    low: float
    high: float


def difference(one: Row, other: Row) -> Difference:
    """`one` less `other`, over the seeds that both have; an image in the test splits of several seeds counts in the first."""
    pairs: dict[str, tuple[bool, bool, str]] = {}
    points = []
    for seed in one.answers:
        if seed not in other.answers:
            continue
        a, b = one.answers[seed], other.answers[seed]
        assert a.paths == b.paths, "both are cut to the same test images of the same source"
        right_a, right_b = a.predicted == a.truth, b.predicted == b.truth
        points.append(float(right_a.mean() - right_b.mean()))
        for path, x, y, person in zip(a.paths, right_a, right_b, a.subject or [""] * len(a.paths), strict=True):
            pairs.setdefault(path, (bool(x), bool(y), person))
    x, y = (np.array([pair[place] for pair in pairs.values()], bool) for place in (0, 1))
    shown = [person for _, _, person in pairs.values()]
    persons = person_numbers(shown)
    return Difference(
        float(np.mean(points)),
        int((x & ~y).sum()),
        int((y & ~x).sum()),
        paired_test(y, x, persons),
        len(pairs),
        None if persons is None else len(set(shown) - {""}),
        *accuracy_difference_interval(y, x, persons),
    )


def row_of(rows: Sequence[Row], net: str, key: str) -> Row | None:
    """The row of a network's arm, if it was run."""
    return next((row for row in rows if (row.arm.net.name, row.arm.key) == (net, key)), None)


COLUMNS = (
    "net", "arm", "description", "seeds", "test_images", "persons", "accuracy", "low", "high", "least", "most", "macro_f1",
    "balanced_accuracy", "expected_cost", "recall_disgust", "disgust_low", "disgust_high", "disgust_images", "disgust_persons",
    "against", "points", "points_low", "points_high", "only_this", "only_other", "p", "p_holm", "updates", "large_accuracy",
    "seconds",
)  # fmt: skip


def base_of(key: str) -> str:
    """What an arm is compared with: remedies and ways to answer with the plain two stages, everything else with direct."""
    return "fer28-target" if key.startswith("fer28-target-") or key == "ensemble" else "direct"


def table_rows(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """A row of results.csv for each arm: means over its seeds, intervals of all its answers, by person where any is known.

    `p_holm` is `p` adjusted by Holm's method for all comparisons of the table.
    """
    told = [_table_row(row, rows) for row in rows]
    tested = [each for each in told if each["p"] != ""]
    for each, p in zip(tested, holm([each["p"] for each in tested]), strict=True):
        each["p_holm"] = p
    yield from told


def _table_row(row: Row, rows: Sequence[Row]) -> dict[str, Any]:
    of, pooled = row.figures(), row.pooled()
    mean = {key: float(np.mean([each[key] for each in of])) for key in ("macro_f1", "balanced_accuracy", "expected_cost")}
    accuracy = [each["accuracy"] for each in of]
    disgust = [each["per_class"]["disgust"]["recall"] for each in of if "disgust" in each["per_class"]]
    base = row_of(rows, row.arm.net.name, base_of(row.arm.key))
    against: dict[str, Any] = dict.fromkeys(_AGAINST, "")
    if base is not None and base is not row:
        found = difference(row, base)
        against = {"against": base.arm.key, "points": round(100 * found.points, 3), "p": found.p}
        against |= {"points_low": round(100 * found.low, 3), "points_high": round(100 * found.high, 3), "p_holm": found.p}
        against |= {"only_this": found.only_one, "only_other": found.only_other}
    rare = pooled["per_class"].get("disgust", {"recall_ci95": None, "support": "", "persons": None})
    low, high = rare["recall_ci95"] or ("", "")
    return {
        "net": row.arm.net.name,
        "arm": row.arm.key,
        "description": row.arm.description,
        "seeds": " ".join(map(str, row.answers)),
        "test_images": sum(each["n_found"] for each in of),
        "persons": "" if pooled["persons"] is None else pooled["persons"],
        "accuracy": float(np.mean(accuracy)),
        "low": pooled["accuracy_ci95"][0],
        "high": pooled["accuracy_ci95"][1],
        "least": min(accuracy),
        "most": max(accuracy),
        **mean,
        "recall_disgust": float(np.mean(disgust)) if disgust else "",
        "disgust_low": low,
        "disgust_high": high,
        "disgust_images": rare["support"],
        "disgust_persons": "" if pooled["persons"] is None or rare["persons"] is None else rare["persons"],
        **against,
        "updates": row.updates,
        "large_accuracy": "" if row.large_accuracy is None else row.large_accuracy,
        "seconds": round(row.seconds, 1),
    }


_AGAINST = ("against", "points", "points_low", "points_high", "only_this", "only_other", "p", "p_holm")


def results_csv(rows: Sequence[Row]) -> str:
    """results.csv as text."""
    return csv_text([COLUMNS, *([row[name] for name in COLUMNS] for row in table_rows(rows))])


def table(rows: Sequence[Row]) -> list[str]:
    """Lines of Markdown: each way's accuracy, macro F1 and recall of disgust, and how it differs from its base."""
    lines = [
        "| network | way | updates | seeds | accuracy (least - most) | 95 % | macro F1 | disgust | points against (95 %) | "
        "only one right, p, Holm's p |",
        "|---|---|---:|---:|---|---|---:|---|---|---|",
    ]
    told = list(table_rows(rows))
    for each in told:
        spread = f"{each['accuracy']:.1%} ({each['least']:.1%} - {each['most']:.1%})"
        points = pair = ""
        if each["p"] != "":
            points = f"{each['points']:+.1f} {each['against']} ({each['points_low']:+.1f} to {each['points_high']:+.1f})"
            pair = f"{each['only_this']} : {each['only_other']}, {each['p']:.2g}, {each['p_holm']:.2g}"
        seeds, f1 = len(each["seeds"].split()), f"{each['macro_f1']:.3f}"
        ends = f"{each['low']:.1%} - {each['high']:.1%}"
        cells = (each["net"], each["description"], f"{each['updates']:,}", seeds, spread, ends, f1, disgust(each), points, pair)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return [*lines, "", of_tests(told)]


def disgust(row: Mapping[str, Any]) -> str:
    """The recall of disgust in a row of `table_rows`, its interval, and on what it rests."""
    if row["recall_disgust"] == "":
        return ""
    ends = "" if row["disgust_low"] == "" else f" ({row['disgust_low']:.1%} - {row['disgust_high']:.1%})"
    persons = "" if row["disgust_persons"] == "" else f" of {row['disgust_persons']} persons"
    return f"{row['recall_disgust']:.1%}{ends}, {row['disgust_images']} answers{persons}"


def of_tests(rows: Sequence[Mapping[str, Any]]) -> str:
    """A sentence on the intervals and tests of `table_rows`."""
    tests = sum(each["p"] != "" for each in rows)
    adjusted = f"; Holm's method over {tests} comparisons" if tests else ""
    if all(each["persons"] == "" for each in rows):
        return f"Intervals and tests by image, as nobody knows who is shown (McNemar, exact){adjusted}."
    most = max(each["persons"] for each in rows if each["persons"] != "")
    return f"Intervals and tests by person, {most:,} in the test splits (bootstrap; permutation, exact){adjusted}."
