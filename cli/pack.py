"""`emotiw pack`: a run as a small folder to ship."""

from __future__ import annotations

import click

from emotiw_keras.cli import completion
from emotiw_keras.cli.console import put_made, tell
from emotiw_keras.cli.places import LOCAL, RUN


@click.command()
@click.argument("run", type=RUN, metavar="RUN", shell_complete=completion.runs)
@click.argument("out", type=LOCAL, metavar="OUT")
@click.option(
    "--data", type=LOCAL, metavar="PATH", required=True, help="Data with the split that the temperature is chosen on."
)
@click.option(
    "--split",
    default="val",
    show_default=True,
    type=click.Choice(["train", "val", "test", "all"]),
    help="Split to choose the temperature on.",
)
@click.option(
    "--crops", type=click.Choice(["1", "2", "10"]), help="Crops that the packed run averages over; default: those of RUN."
)
@click.option(
    "--votes",
    type=LOCAL,
    metavar="FILE",
    help="For FER-2013: FER+'s fer2013new.csv, for the temperature of the head of votes.",
)
@click.option("--votes-rows", type=LOCAL, metavar="FILE", help="A table file,row: which row of --votes an image is.")
@click.option("--head", metavar="NAME", help="Of several heads, the one that OUT answers with unless told otherwise.")
@click.option(
    "--calibrate",
    type=click.Choice(["clean", "robust"]),
    default="clean",
    show_default=True,
    help="Choose the temperature on the faces as they are, or also noisy, blurred, small, compressed, dark and cut otherwise.",
)
def pack(
    run: str,
    out: str,
    data: str,
    split: str,
    crops: str | None,
    votes: str | None,
    votes_rows: str | None,
    head: str | None,
    calibrate: str,
) -> None:
    """Write the run folder RUN as a small one: weights in 16 bits, calibrated probabilities, no checkpoints.

    The logits are divided by the temperature that makes the labels of --split most likely; images that RUN was trained on are
    left out, and where its classifier was fitted again on them (refit), its cross-validation stands for them. The answers stay
    the same but for near ties, which 16 bits may turn, and where several crops are averaged the temperature, too; the
    probabilities change. By the same images it is settled from which entropy on `emotiw predict` calls an answer uncertain, and
    how large its activations become, with which `emotiw predict --precision int8` computes. OUT works wherever a run folder
    does, but training cannot be resumed in it.

    With `--calibrate robust` one temperature suits the faces as they are and as other cameras would take them.

    \b
    Example: emotiw pack runs/fer28 fer-small --data fer2013.zip
    """
    from emotiw_keras.evaluation.metrics import told_temperature
    from emotiw_keras.evaluation.pack import pack as write
    from emotiw_keras.runs import Run

    done = write(
        Run.open(run),
        out,
        data,
        split=split,
        crops=None if crops is None else int(crops),
        votes=votes,
        votes_rows=votes_rows,
        head=head,
        calibrate=calibrate,
        say=tell,
    )
    for name, (temperature, before, after) in done.heads.items():
        told = f"temperature {told_temperature(temperature)}, calibration error {before:.3f} -> {after:.3f}"
        tell(f"head {name}: {told} on {done.chosen_on}")
    put_made(
        f"{done.path}: {done.megabytes:.1f} MB, temperature {told_temperature(done.temperature)}, calibration error "
        f"{done.ece[0]:.3f} -> {done.ece[1]:.3f} on {done.chosen_on}; rounding to 16 bits moved probabilities by "
        f"at most {done.largest_change:.1g}"
    )
