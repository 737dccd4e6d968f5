"""`emotiw fit`."""

from __future__ import annotations

import sys

import click

from emotiw_keras.cli.console import put, tell


@click.command(
    epilog="Example: emotiw fit finetune --data data=my_faces --out runs/mine",
)
@click.argument("recipe", default="demo")
@click.option("--data", multiple=True, metavar="NAME=PATH", help="A data set: a CSV, folder or zip; repeatable.")
@click.option("--out", required=True, metavar="RUN", help="The run folder to make, or to go on with.")
@click.option("--model", metavar="M", help="Network (see `emotiw models`): of the zoo, or keras:NAME of keras.applications.")
@click.option(
    "--weights", metavar="W", help="Start from: none, imagenet (senet50: vggface2), a weight file, a run or a shipped model."
)
@click.option("--epochs", type=click.IntRange(1), help="Epochs of every stage.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a setting: fer.epochs=3; repeatable.")
@click.option("--limit", type=click.IntRange(1), help="Take N images per split, stratified and seeded.")
@click.option("--precision", type=click.Choice(["auto", "float32", "mixed_bfloat16", "mixed_float16"]), help="Arithmetic.")
@click.option("--seed", type=click.IntRange(0), help="Seed of splits, weights, order, crops and dropout.")
@click.option("--threads", type=click.IntRange(1), help="Processor threads; all if not given.")
@click.option(
    "--keep-duplicates", "duplicates", flag_value="keep", default=None, help="Train also on what stands in val or test."
)
@click.option("--drop-duplicates", "duplicates", flag_value="drop", help="Leave them out of training.")
@click.option("--restart", is_flag=True, help="Begin anew; the old run is renamed, not deleted.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and stop.")
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
    duplicates: str | None,
    restart: bool,
    dry_run: bool,
) -> None:
    """Train a network by RECIPE (a shipped one, see `emotiw recipes`, or a .toml file; `demo` if none is named).

    The same command goes on where an interrupted run stopped.
    """
    from emotiw_keras.errors import UsageError
    from emotiw_keras.models.registry import application_names, get_spec
    from emotiw_keras.training.recipe import load_recipe
    from emotiw_keras.training.start import run_of

    own = []
    if weights is not None:
        own.append(f"model.weights={weights!r}")
        named = run_of(weights) if model is None else None
        if named is not None:
            start = named.info["model"]
            own += [
                f"model.name={start['name']!r}",
                f"model.width={start['width']!r}",
                f"model.input_size={start['input_shape'][0]}",
            ]
    told = ""
    if model is not None:
        own.append(f"model.name={model!r}")
        start = load_recipe(recipe).model
        if weights is None and start.name != model and run_of(start.weights) is not None:
            word = get_spec(model).trained_on
            own.append(f"model.weights={word!r}")
            told = f"{model} starts from {word}: {start.weights}, from which the recipe starts, is a {start.name}"
        if model in application_names():
            # Those of the recipe are for its own network.
            own += ["model.width=1.0", "preprocessing.mean=[]", "preprocessing.std=[]"]
            given = load_recipe(recipe)
            if given.model.name != model and (given.model.width != 1 or given.preprocessing.mean or given.preprocessing.std):
                more = f"{model} in place of {given.model.name}: with its own width, mean and deviation, not the recipe's"
                told = f"{told}; {more}" if told else more
    if epochs is not None:
        own.append(f"stage.epochs={epochs}")  # a recipe of searches, which count generations, has no such table
    chosen = load_recipe(recipe, [*own, *changes], limit=limit, precision=precision, seed=seed, duplicates=duplicates)
    if told:
        click.echo(told, err=True)
    paths: dict[str, str] = {}
    for item in data:
        name, equals, path = item.partition("=")
        if not equals or not path:
            names = ", ".join(chosen.data)
            raise UsageError(f"--data {item!r}: expected NAME=PATH; recipe {chosen.name!r} knows the names {names}")
        if name in paths:
            raise UsageError(f"--data {name}=... is given twice")
        paths[name] = path

    from emotiw_keras.training.fit import fit as train
    from emotiw_keras.training.progress import Progress

    def say(line: str) -> None:
        tell(line)

    outcome = train(
        chosen, paths, out, threads=threads, restart=restart, dry_run=dry_run, say=say, progress=Progress.on_stderr()
    )
    if outcome.run is not None:
        for stage in outcome.run.info["stages"]:
            accuracy = stage.get("val_accuracy")
            score = "" if accuracy is None else f", val accuracy {accuracy:.1%}"
            if stage.get("monitor") == "val_macro_f1" and stage.get("val_macro_f1") is not None:
                score += f", val macro F1 {stage['val_macro_f1']:.3f}"
            if "path" in stage:
                path = "/".join("-".join(map(str, genes)) for genes in stage["path"])
                shared = sum(map(len, stage["reused"]))
                say(
                    f"search {stage['name']}: path {path} after {stage['generations']} generations, "
                    f"{shared} of its modules frozen before{score}"
                )
                continue
            say(f"stage {stage['name']}: best epoch {stage['best_epoch']} of {stage['epochs']}{score}")
        put(outcome.run.path)
    if outcome.unreadable:
        for line in outcome.unreadable[:20]:
            say(f"could not be read: {line}")
        if len(outcome.unreadable) > 20:
            say(f"... and {len(outcome.unreadable) - 20} more; data.csv names each")
        sys.exit(3)
