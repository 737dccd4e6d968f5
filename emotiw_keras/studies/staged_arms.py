"""What the study of two stages trains: its arms, and the runs that each is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from emotiw_keras.errors import UsageError
from emotiw_keras.runs import Run
from emotiw_keras.training.epoch_progress import silent
from emotiw_keras.training.recipe import Recipe, load_recipe, parse_recipe, recipe_text

if TYPE_CHECKING:
    from emotiw_keras.data.faceset import FaceSet

LARGE, SMALL = "fer", "target"
"""The data sets, by the names that the recipes give them."""
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
                for each in chain_of(step):
                    found.setdefault(each)
    return list(found)


def chain_of(step: Step) -> list[Step]:
    """A run behind those that it needs."""
    before = [chain_of(each) for each in (step.start, step.as_long_as) if each is not None]
    return [*chain.from_iterable(before), step]


def updates_of(step: Step, runs: Mapping[Step, Run]) -> int:
    """How many updates its trainings made to their last epochs, those of the run it starts from included. Which epoch is kept,
    the validation images choose."""
    run = runs[step]
    stages = parse_recipe(run.content("recipe.toml").decode("utf-8"), str(run.path)).stages
    own = sum(
        done["epochs"] * -(-done["images"] // stage.batch_size) // stage.accumulate
        for stage, done in zip(stages, run.info["stages"], strict=True)
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
    changes = [f"target.epochs={epochs}"]
    if stage.schedule == "step":
        changes.append(f"target.step_epochs={max(1, round(stage.step_epochs * epochs / stage.epochs))}")
    return replace(step, changes=(*step.changes, *changes))


def recipe_of(
    step: Step, changes: Sequence[str], out: Path, precision: str | None = None, say: Callable[[str], None] = silent
) -> Recipe:
    """The recipe of one run; changes for stages or sets that it has not are those of other runs."""
    text = parse_recipe(recipe_text(step.recipe), step.recipe)
    known = {stage.name for stage in text.stages} | {"stage", "model", "preprocessing"}
    known |= {f"source.{name}" for name in text.data}
    fitting = [each for each in changes if (table := each.partition("=")[0].strip().rpartition(".")[0]) in known or not table]
    weights = str(out / step.start.folder) if step.start is not None else "none" if step.blank else step.net.weights
    own = [f"model.name={step.net.name}", f"model.weights={weights}", *step.changes, f"name={step.recipe}-{step.name}"]
    return load_recipe(step.recipe, [*fitting, *own], say=say, seed=step.seed, precision=precision)


def check_changes(changes: Sequence[str]) -> None:
    """Refuse a change that no run of a study would take.

    Raises:
        UsageError: it names no stage, set or table of any of the recipes, or what the study sets itself.
    """
    tables = {"", "fer", "target", "joint", "stage", "model", "preprocessing", f"source.{LARGE}", f"source.{SMALL}"}
    for each in changes:
        name, equals, _ = each.partition("=")
        if not equals or name.strip().rpartition(".")[0] not in tables:
            known = ", ".join(sorted(tables - {""}))
            raise UsageError(f"--set {each!r}: expected TABLE.KEY=VALUE with TABLE one of {known}, or KEY=VALUE")
        if name.strip() in ("name", "seed", "model.name", "model.weights"):
            raise UsageError(f"--set {each!r}: a study sets {name.strip()} of each run itself; leave it out")


def read_sets(
    paths: Mapping[str, str], net: Net, changes: Sequence[str], out: Path, precision: str | None, threads: int | None
) -> dict[str, FaceSet]:
    """Both data sets as the runs of the first seed read them, for images and counts."""
    from emotiw_keras.training.prepared_data import prepare
    from emotiw_keras.training.start import start_tensorflow

    start_tensorflow(threads)  # before "auto" looks for the faster precision, with all threads else
    recipe = recipe_of(Step(net, 0, "joint", "ng2015-joint"), changes, out, precision)
    return prepare(recipe, paths, threads=threads).sets


def recipes_as_run(net: Net, changes: Sequence[str], precision: str | None, out: Path) -> dict[str, str]:
    """The four recipes as the runs of the first seed have them: name -> TOML with every setting."""
    names = ("ng2015-direct", "ng2015-fer28", "ng2015-fer32", "ng2015-joint")
    return {name: recipe_of(Step(net, 0, "plain", name), changes, out, precision).to_toml() for name in names}
