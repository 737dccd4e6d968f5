"""`emotiw prepare`: photos of a raw data set -> aligned grey faces, ready for `emotiw fit`."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import click

from emotiw_keras.cli.console import counter, put, tell

if TYPE_CHECKING:
    from emotiw_keras.data.prepare import Summary

SOME_UNREADABLE = 3


def _time_line(summary: Summary, seconds: float) -> str:
    steps = sum(summary.seconds.values())
    shares = ", ".join(f"{name} {value / steps:.0%}" for name, value in summary.seconds.items()) if steps else ""
    rate = f"{summary.new:,} pictures in {seconds:.1f} s, {summary.new / seconds:.1f} a second"
    return rate + (f" ({shares})" if shares else "")


@click.command()
@click.argument("src")
@click.argument("out")
@click.option(
    "--faces",
    type=click.Choice(["largest", "all", "central"]),
    default="largest",
    show_default=True,
    help="Which of several faces in a picture.",
)
@click.option(
    "--no-face",
    type=click.Choice(["skip", "centre"]),
    default="skip",
    show_default=True,
    help="A picture without a face: list it only, or take its centre square (its status says so).",
)
@click.option("--detector", metavar="NAME", help="Who finds the faces; an unknown name lists those there are.")
@click.option(
    "--reading",
    type=click.Choice(["A", "B", "C", "D"]),
    default="B",
    show_default=True,
    help="How the paper's crop is read: A wider, B square from below the mouth, C with the chin, D narrower.",
)
@click.option("--frames", type=click.IntRange(min=1), default=8, show_default=True, help="Frames of each film, evenly spread.")
@click.option("--workers", metavar="N", type=click.IntRange(min=1), help="Processes; default: one for each processor.")
@click.option("--json", "as_json", is_flag=True, help="The summary as one JSON object.")
@click.pass_context
def prepare(
    ctx: click.Context,
    src: str,
    out: str,
    faces: str,
    no_face: str,
    detector: str | None,
    reading: str,
    frames: int,
    workers: int | None,
    as_json: bool,
) -> None:
    """Find the faces in SRC, turn them upright and write them to OUT: grey, 256x256, as Ng et al. 2015 cut them.

    SRC is a folder of photos (in class folders, in splits of class folders, or in neither), a zip, a manifest CSV or one
    photo; or films, of which frames are taken: those of SAVEE and eNTERFACE'05 as they are distributed, whose names say who
    speaks and what is shown, or films in class folders. OUT keeps the folders and gets faces.csv (a row for each face, and for
    each photo or frame without one), a contact sheet for each class and a summary. The same command again goes on where it
    was. Exit code 3: done, but some pictures could not be read (each is named).

    \b
    Examples:
      emotiw prepare SFEW aligned && emotiw fit finetune --data data=aligned --weights runs/first --out runs/mine
      emotiw prepare holiday.zip faces --faces all
    """
    from emotiw_keras.data.prepare import prepare as prepare_faces

    start = time.perf_counter()
    summary = prepare_faces(
        src,
        out,
        detector=detector,
        faces=faces,
        no_face=no_face,
        reading=reading,
        frames=frames,
        workers=workers,
        progress=counter("{} of {} pictures"),
        say=tell,
    )
    if summary.new:
        tell(_time_line(summary, time.perf_counter() - start))
    put(json.dumps(summary.as_dict()) if as_json else "\n".join(summary.table()))
    for path, reason in summary.unreadable:
        tell(f"emotiw: cannot read {path}: {reason}")
    if summary.unreadable:
        ctx.exit(SOME_UNREADABLE)
