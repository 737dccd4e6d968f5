"""`emotiw staged-study`: fine-tuning in stages beside direct, joint and none, as Ng et al. 2015 compared them."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from emotiw_keras.cli.console import named_values, put_made, tell
from emotiw_keras.cli.places import LOCAL, NAMED, Place


@click.command("staged-study")
@click.option(
    "--data", type=NAMED, multiple=True, required=True, metavar="NAME=PATH", help="Both sets: fer=PATH and target=PATH."
)
@click.option(
    "--net",
    "nets",
    type=Place("hf", named=True),
    multiple=True,
    required=True,
    metavar="MODEL=WEIGHTS",
    help="A network and what it starts from: none, imagenet, a weight file or a run folder; repeatable.",
)
@click.option("--out", required=True, type=LOCAL, metavar="DIR", help="The study's folder, new or to be continued.")
@click.option(
    "--seeds",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Number of seeds for the target's splits and stages, from 0.",
)
@click.option(
    "--large-seeds", type=click.IntRange(1), default=1, show_default=True, help="Number of runs on FER, shared by the seeds."
)
@click.option(
    "--parts",
    default="core,budget,rate,amount,remedies,answers",
    show_default=True,
    help="Parts of the comparison, separated by commas.",
)
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a setting of all runs; repeatable.")
@click.option("--precision", type=click.Choice(["auto", "float32", "mixed_bfloat16"]), help="Precision of the arithmetic.")
@click.option("--threads", type=click.IntRange(1), help="Processor threads; default: all.")
def staged_study(
    data: tuple[str, ...],
    nets: tuple[str, ...],
    out: str,
    seeds: int,
    large_seeds: int,
    parts: str,
    changes: tuple[str, ...],
    precision: str | None,
    threads: int | None,
) -> None:
    """Compare fine-tuning in stages with direct, joint and none, as Ng et al. 2015 did.

    Every run is a run folder below DIR; the same command resumes where it stopped. DIR/results.csv and results.md have
    a row for each method, DIR/study.html the tables, tests, confusions and images; all are updated after each method.

    \b
    Parts:
      core      scratch, direct, FER alone (28 and 32), joint, and FER -> target
      budget    direct, with as many updates as by FER -> target
      rate      learning rate 0.01 on FER
      amount    50 and 25 % of FER
      remedies  FER -> target with class weights, focal loss, balanced sampling, costs, label smoothing
      answers   mirror and ten-crop averaging, an ensemble

    \b
    Example:
      emotiw staged-study --data fer=fer2013.zip --data target=faces --net squeezenet=squeezenet.npz --out study
        --set model.input_size=112 --set fer.epochs=10 --set joint.epochs=10
    """
    from emotiw_keras.errors import UsageError
    from emotiw_keras.files import check_replaced, write_atomic
    from emotiw_keras.html import MARK
    from emotiw_keras.locking import sweep_beside
    from emotiw_keras.models.registry import model_names
    from emotiw_keras.studies import staged, staged_arms, staged_table
    from emotiw_keras.studies.under_way import tells_more

    paths = named_values(data, "--data", "fer=PATH and target=PATH")
    if set(paths) != {staged_arms.LARGE, staged_arms.SMALL}:
        raise UsageError(f"--data names {', '.join(paths)}; expected fer=PATH and target=PATH")
    staged_arms.check_changes(changes)
    chosen = [staged_arms.Net(*pair) for pair in named_values(nets, "--net", "MODEL=WEIGHTS").items()]
    for net in chosen:
        if net.name not in model_names():
            raise UsageError(f"--net {net.name}: no such network; allowed are {', '.join(model_names())}")
    asked = [part.strip() for part in parts.split(",")]
    unknown = [part for part in asked if part not in staged_arms.PARTS]
    if unknown:
        raise UsageError(f"--parts {parts!r}: there is no {unknown[0]!r}; expected some of {','.join(staged_arms.PARTS)}")
    if "core" not in asked:
        raise UsageError(f"--parts {parts!r}: the other parts are compared with core; add it")
    staged.check_weights(chosen)
    folder = Path(out)
    files = {staged_table.RESULTS_FILE: "net,arm,", staged_table.TABLE_FILE: "", staged_table.PAGE_FILE: MARK}
    check_replaced(folder, files, "a study")
    for name in files:
        sweep_beside(folder / name)
    command = shlex.join(["emotiw", *sys.argv[1:]])
    ways = sum(len(staged_arms.arms_of(net, range(seeds), large_seeds, asked)) for net in chosen)
    sets = staged_arms.read_sets(paths, chosen[0], changes, folder, precision, threads)
    recipes = staged_arms.recipes_as_run(chosen[0], changes, precision, folder)

    def finished(rows: list[staged.Row]) -> None:
        from emotiw_keras.reports.study_page import study_page

        if tells_more(folder / staged_table.RESULTS_FILE, len(rows), ways):
            return
        write_atomic(folder / staged_table.RESULTS_FILE, staged_table.results_csv(rows))
        write_atomic(folder / staged_table.TABLE_FILE, "\n".join(staged_table.table(rows)) + "\n")
        write_atomic(folder / staged_table.PAGE_FILE, study_page(rows, sets, recipes, command, ways - len(rows)))

    rows = staged.study(
        chosen, paths, out, seeds=range(seeds), large_seeds=large_seeds, parts=asked, changes=changes, precision=precision,
        threads=threads, say=tell, finished=finished,
    )  # fmt: skip
    put_made("\n".join(staged_table.table(rows)))
    put_made(f"{folder / staged_table.PAGE_FILE}: open it in a browser")
