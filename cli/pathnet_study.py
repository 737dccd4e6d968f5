"""`emotiw pathnet-study`: PathNet's transfer against its controls."""

from __future__ import annotations

import click

from emotiw_keras.cli.console import named_values, put_made, tell
from emotiw_keras.cli.places import LOCAL, NAMED


@click.command("pathnet-study")
@click.option("--data", type=NAMED, multiple=True, required=True, metavar="NAME=PATH", help="The two sets: a=PATH and b=PATH.")
@click.option("--out", required=True, type=LOCAL, metavar="DIR", help="The study's folder, new or to be continued.")
@click.option("--recipe", type=LOCAL, default="pathnet-transfer", show_default=True, help="A recipe of two searches.")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Number of seeds, from 0.")
@click.option("--folds", is_flag=True, help="Every fold of the sets in turn (set source.a.folds and source.b.folds).")
@click.option(
    "--split", default="test", show_default=True, type=click.Choice(["train", "val", "test", "all"]), help="Split to score."
)
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a setting: search.target=0.9; repeatable.")
@click.option("--limit", type=click.IntRange(1), help="Take N images per split, stratified and seeded.")
@click.option("--precision", type=click.Choice(["auto", "float32", "mixed_bfloat16"]), help="Precision of the arithmetic.")
@click.option("--threads", type=click.IntRange(1), help="Processor threads; default: all.")
def pathnet_study(
    data: tuple[str, ...],
    out: str,
    recipe: str,
    seeds: int,
    folds: bool,
    split: str,
    changes: tuple[str, ...],
    limit: int | None,
    precision: str | None,
    threads: int | None,
) -> None:
    """Compare PathNet's transfer with search from scratch and with fine-tuning, from each of two sets to the other.

    Every run is a run folder below DIR with the same number of minibatches; the same command resumes where it
    stopped.
    DIR/results.csv has a row for each run, DIR/results.md the table. For transfer within one set, give it twice, with
    different folds to train on.

    \b
    Examples:
      emotiw pathnet-study --data a=savee --data b=enterface --out study --set source.a.folds=4 --set source.b.folds=5 --folds
      emotiw pathnet-study --data a=enterface --data b=enterface --out within --set source.a.folds=5 --set source.b.folds=5
        --set 'source.a.train_folds=[2,3]' --set 'source.b.train_folds=[4]' --folds
    """
    from emotiw_keras.errors import UsageError
    from emotiw_keras.studies.pathnet_transfer import study, table
    from emotiw_keras.training.recipe import load_recipe

    for each in changes:
        name = each.partition("=")[0].strip()
        if name in ("name", "seed"):
            raise UsageError(f"--set {each!r}: a study sets {name} of each run itself; leave it out, or give --seeds N")
        if name == "model.weights" or name.endswith(".start") or (folds and name.endswith(".fold")):
            raise UsageError(f"--set {each!r}: a study sets {name} of each run itself; leave it out")
    chosen = load_recipe(recipe, changes, limit=limit, precision=precision)
    paths = named_values(data, "--data", f"NAME=PATH for {' and '.join(chosen.data)}")
    if set(paths) != set(chosen.data):
        raise UsageError(f"--data names {', '.join(paths)}; a study of {chosen.name!r} needs {' and '.join(chosen.data)}")
    rows = study(
        chosen,
        paths,
        out,
        seeds=range(seeds),
        folds=folds,
        split=split,
        threads=threads,
        say=tell,
    )
    put_made("\n".join(table(rows)))
