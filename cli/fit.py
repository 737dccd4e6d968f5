"""`emotiw fit`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from emotiw_keras.cli import completion
from emotiw_keras.cli.amounts import Amount
from emotiw_keras.cli.console import SOME_UNREADABLE, named_values, put_made, tell, warn
from emotiw_keras.cli.places import LOCAL, NAMED, RUN
from emotiw_keras.talk import most

if TYPE_CHECKING:
    from emotiw_keras.training.fit import Outcome
    from emotiw_keras.training.recipe import Recipe


@click.command(
    epilog="Example: emotiw fit finetune --data data=my_faces --out runs/mine",
)
@click.argument("recipe", type=LOCAL, default="demo", shell_complete=completion.recipes)
@click.option("--data", type=NAMED, multiple=True, metavar="NAME=PATH", help="A data set: a CSV, folder or zip; repeatable.")
@click.option("--out", type=LOCAL, required=True, metavar="RUN", help="The run folder, new or to be resumed.")
@click.option(
    "--model",
    metavar="M",
    shell_complete=completion.networks,
    help="Network: a name listed by `emotiw models`, or keras:NAME for one of keras.applications.",
)
@click.option(
    "--weights",
    type=RUN,
    metavar="W",
    shell_complete=completion.runs,
    help="Start from: none, imagenet (senet50: vggface2), a weight file, a run or a shipped model.",
)
@click.option("--epochs", type=click.IntRange(1), help="Epochs of every stage.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a setting: fer.epochs=3; repeatable.")
@click.option("--limit", type=click.IntRange(1), help="Take N images per split, stratified and seeded.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "mixed_bfloat16", "mixed_float16"]),
    help="Precision of the arithmetic.",
)
@click.option("--seed", type=click.IntRange(0), help="Seed of splits, weights, order, crops and dropout.")
@click.option("--threads", type=click.IntRange(1), help="Processor threads; default: all.")
@click.option("--keep-duplicates", is_flag=True, help="Also train on images that are in val or test too.")
@click.option("--drop-duplicates", is_flag=True, help="Leave such images out of training.")
@click.option(
    "--strategy",
    type=click.Choice(["auto", "none", "mirrored", "multi-worker"]),
    default="none",
    show_default=True,
    help="Devices that train together: all GPUs (mirrored), or the workers that TF_CONFIG or Slurm names.",
)
@click.option("--devices", metavar="LIST", help="Of --strategy mirrored, such as gpu:0,gpu:1; cpu:0,cpu:1 to try it.")
@click.option(
    "--wait",
    type=Amount(1),
    metavar="SECONDS",
    help="Of --strategy multi-worker: longest wait for the others; default: 600.",
)
@click.option(
    "--folds",
    metavar="N",
    type=click.IntRange(3, 1000),
    help="Cross-validate: N runs below RUN, each tested on a fold (by person where known) that it was not given.",
)
@click.option("--refit", is_flag=True, help="With --folds: also train RUN/final on all folds, the model to be used.")
@click.option("--restart", is_flag=True, help="Start over; the old run is renamed, not deleted.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and stop.")
@click.option(
    "--show-batch",
    type=LOCAL,
    metavar="FILE.png",
    help="Write what the first epochs make of some training images, and stop.",
)
def fit(
    recipe: str,
    data: tuple[str, ...],
    out: str,
    model: str | None,
    weights: str | None,
    epochs: int | None,
    changes: tuple[str, ...],
    limit: int | None,
    precision: str | None,
    seed: int | None,
    threads: int | None,
    keep_duplicates: bool,
    drop_duplicates: bool,
    strategy: str,
    devices: str | None,
    wait: float | None,
    folds: int | None,
    refit: bool,
    restart: bool,
    dry_run: bool,
    show_batch: str | None,
) -> None:
    """Train a network by RECIPE (a shipped one, see `emotiw recipes`, or a .toml file; `demo` if none is named).

    The same command resumes an interrupted run. With --folds, `emotiw evaluate RUN` puts the answers of all folds together.
    """
    from emotiw_keras.errors import UsageError
    from emotiw_keras.training.recipe import load_recipe

    if refit and folds is None:
        raise UsageError("--refit trains on all folds; give --folds N")
    if keep_duplicates and drop_duplicates:
        raise UsageError("--keep-duplicates and --drop-duplicates contradict each other; leave one of them out")
    _check_once(changes, {"model.name": model, "model.weights": weights, "stage.epochs": epochs})
    own = _network(recipe, model, weights)
    if epochs is not None:
        table = load_recipe(recipe).table
        if table != "stage":
            raise UsageError(
                f"--epochs is for recipes of stages; recipe {recipe!r} lists [[{table}]], which has generations: "
                f"--set {table}.generations={epochs}"
            )
        own.append(f"stage.epochs={epochs}")
    duplicates = "keep" if keep_duplicates else "drop" if drop_duplicates else None
    options: dict[str, Any] = {"limit": limit, "precision": precision, "seed": seed, "duplicates": duplicates}
    chosen = load_recipe(recipe, [*own, *changes], say=warn, **options)
    paths = named_values(data, "--data", f"NAME=PATH with a name of recipe {chosen.name!r} ({', '.join(chosen.data)})")

    from emotiw_keras.progress import Bar
    from emotiw_keras.training.epoch_progress import Progress
    from emotiw_keras.training.fit import fit as train

    options = {"threads": threads, "restart": restart, "dry_run": dry_run}
    options |= {"say": warn if dry_run else tell, "progress": Progress(Bar("images"))}  # what a dry run says is all it gives
    if folds is None:
        listed = () if devices is None else tuple(devices.split(","))
        outcome = train(chosen, paths, out, show=show_batch, strategy=strategy, devices=listed, wait=wait, **options)
        outcomes: tuple[Outcome, ...] = (outcome,)
        made = None if outcome.run is None else outcome.run.path
    else:
        if show_batch:
            raise UsageError("--show-batch shows the images of one training; leave out --folds")
        if strategy != "none" or devices is not None or wait is not None:
            raise UsageError("--folds trains on one device; leave out --strategy, --devices and --wait")
        from emotiw_keras.training.cross_validation import cross_validate

        runs, outcomes = cross_validate(chosen, paths, out, folds, refit=refit, **options)
        made = None if runs is None else runs.path
    for outcome in outcomes:
        _tell_stages(outcome, chosen)
    if made is not None:
        put_made(made)
    if _tell_unreadable(outcomes):
        sys.exit(SOME_UNREADABLE)


def _check_once(changes: Sequence[str], given: dict[str, Any]) -> None:
    """Refuse what an option of its own and --set say differently; given is what options say, by setting."""
    from emotiw_keras.errors import UsageError

    for change in changes:
        key, _, text = (part.strip() for part in change.partition("="))
        value = given.get(key)
        if value is not None and text.strip("'\"") != str(value):
            option = key.rpartition(".")[2].replace("name", "model")
            raise UsageError(f"--{option} {value} beside --set {change}: leave one of them out")


def _network(recipe: str, model: str | None, weights: str | None) -> list[str]:
    """What --model and --weights change in a recipe; what goes with the network that is named comes along, and is said."""
    from emotiw_keras.models.registry import application_names, get_spec
    from emotiw_keras.training.recipe import load_recipe
    from emotiw_keras.training.start import run_of

    changes = [] if weights is None else [f"model.weights={weights!r}"]
    named = None if weights is None else run_of(weights)
    given = load_recipe(recipe)
    if named is not None:  # faces are made as they were for these weights, not as for the recipe's own
        usual = given.preprocessing.unlike(named.settings)
        changes += [f"preprocessing.{name}={json.dumps(default)}" for name, default in usual.items()]
    if named is not None and (model is None or get_spec(model).name == named.model_name):
        start = named.info["model"]
        side = f"model.input_size={start['input_shape'][0]}"
        return [*changes, f"model.name={start['name']!r}", f"model.width={start['width']!r}", side]
    if model is None:
        return changes
    changes.append(f"model.name={model!r}")
    start = given.model
    if weights is None and start.name != model and run_of(start.weights) is not None:
        word = get_spec(model).trained_on
        changes.append(f"model.weights={word!r}")
        warn(f"{model} starts from {word}: {start.weights}, from which the recipe starts, is a {start.name}")
    if model in application_names():
        # Those of the recipe are for its own network.
        changes += ["model.width=1.0", "preprocessing.mean=[]", "preprocessing.std=[]"]
        if start.name != model and (start.width != 1 or given.preprocessing.mean or given.preprocessing.std):
            warn(f"{model} in place of {start.name}: with its own width, mean and deviation, not the recipe's")
    return changes


def _tell_unreadable(outcomes: Sequence[Outcome]) -> bool:
    """Name the images that could not be read, each once; whether there are any."""
    unreadable = list(dict.fromkeys(line for outcome in outcomes for line in outcome.unreadable))
    shown = unreadable[: most(20)]
    for line in shown:
        warn(f"could not be read: {line}")
    if len(shown) < len(unreadable):
        warn(f"... and {len(unreadable) - len(shown)} more; data.csv names each")
    return bool(unreadable)


def _tell_stages(outcome: Outcome, recipe: Recipe) -> None:
    """A line for each stage of a finished run."""
    if outcome.run is None:
        return
    again = outcome.run.info.get("refitted", {}).get("stage")
    for stage in outcome.run.info["stages"]:
        accuracy = stage.get("val_accuracy")
        score = "" if accuracy is None else f", val accuracy {accuracy:.1%}"
        if stage.get("monitor") == "val_macro_f1" and stage.get("val_macro_f1") is not None:
            score += f", val macro F1 {stage['val_macro_f1']:.3f}"
        if score and stage["name"] == again:
            score += ", before it was fitted again with these images"
        tell(recipe.kind.result(stage, score))
