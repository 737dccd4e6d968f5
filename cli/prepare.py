"""`emotiw prepare`: photos of a raw data set -> aligned grey faces, ready for `emotiw fit`."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

from emotiw_keras.cli import parts
from emotiw_keras.cli.amounts import Amount
from emotiw_keras.cli.console import SOME_UNREADABLE, put_made, tell, warn
from emotiw_keras.cli.places import ANYWHERE
from emotiw_keras.errors import UsageError
from emotiw_keras.progress import Bar
from emotiw_keras.text import number_of

if TYPE_CHECKING:
    from emotiw_keras.data.prepare import Summary


def _time_line(summary: Summary, seconds: float) -> str:
    steps = sum(summary.seconds.values())
    shares = ", ".join(f"{name} {value / steps:.0%}" for name, value in summary.seconds.items()) if steps else ""
    rate = f"{number_of(summary.new, 'images')} in {seconds:.1f} s, {summary.new / seconds:.1f} a second"
    return rate + (f" ({shares})" if shares else "")


@click.command()
@click.argument("sources", type=ANYWHERE, nargs=-1, metavar="SRC...")
@click.argument("out", type=ANYWHERE)
@click.option(
    "--faces",
    type=click.Choice(["largest", "all", "central"]),
    default="largest",
    show_default=True,
    help="Which face to take where an image has several.",
)
@click.option(
    "--no-face",
    type=click.Choice(["skip", "centre"]),
    default="skip",
    show_default=True,
    help="An image without a face: only list it, or take its centre square (its status says so).",
)
@click.option("--detector", metavar="NAME", help="Face detector; an unknown name lists the available ones.")
@click.option(
    "--reading",
    type=click.Choice(["A", "B", "C", "D"]),
    default="B",
    show_default=True,
    help="Interpretation of the paper's crop: A wider, B square from below the mouth, C with the chin, D narrower.",
)
@click.option(
    "--frames", type=click.IntRange(min=1), default=8, show_default=True, help="Frames to take from each video, evenly spread."
)
@click.option(
    "--near-duplicates",
    metavar="R",
    type=Amount(0, 1),
    default=0.97,
    show_default=True,
    help="List faces that show one photograph nearly the same, from this correlation on (0.95 to 1); 0 does not look.",
)
@click.option("--workers", metavar="N", type=click.IntRange(min=1), help="Number of processes; default: one per processor.")
@click.option("--json", "as_json", is_flag=True, help="The summary as one JSON object.")
@parts.spread_options
@click.pass_context
def prepare(
    ctx: click.Context,
    /,
    sources: tuple[str, ...],
    out: str,
    faces: str,
    no_face: str,
    detector: str | None,
    reading: str,
    frames: int,
    near_duplicates: float,
    workers: int | None,
    as_json: bool,
    **spread: Any,
) -> None:
    """Find the faces in SRC, turn them upright and write them to OUT: grey, 256x256, as Ng et al. 2015 cut them.

    SRC is a folder of photos (in class folders, in splits of class folders, or in neither), a zip, a manifest CSV or one
    photo; or videos, of which frames are taken: those of SAVEE and eNTERFACE'05 as they are distributed, whose names say who
    speaks and what is shown, or videos in class folders. OUT keeps the folders and gets faces.csv (a row for each face, and for
    each photo or frame without one), a contact sheet for each class and a summary. Run the same command again to
    resume. Exit code 3: done, but some images could not be read (each is named).

    With --runner, for millions: SRC are any inputs of `emotiw predict --out`, OUT gets parts (rows, and a tar of faces
    each), faces.csv and a manifest, without contact sheets and near duplicates. Unpack the tars in OUT to train on it.

    \b
    Examples:
      emotiw prepare SFEW aligned && emotiw fit finetune --data data=aligned --weights runs/first --out runs/mine
      emotiw prepare holiday.zip faces --faces all
      emotiw prepare crowd/ more.tar list.csv faces --runner local --jobs 8
    """
    if not sources:
        raise UsageError(f"{out!r} alone: expected SRC and OUT; see 'emotiw prepare --help'")
    if spread["runner"] is not None:
        parts.refuse(ctx, "near_duplicates", "workers", "as_json")
        settings = parts.prepare_settings(faces, no_face, detector, reading, frames)
        parts.run_job(ctx, "prepare", out, settings, sources, **spread)
        return
    parts.refuse_without_runner(ctx)
    if len(sources) > 1:
        raise UsageError(f"{len(sources)} sources: expected one; several are read in parts, with --runner local")
    (src,) = sources
    from emotiw_keras.data.prepare import prepare as prepare_faces

    start, bar = time.perf_counter(), Bar("images")
    summary = prepare_faces(
        src,
        out,
        detector=detector,
        faces=faces,
        no_face=no_face,
        reading=reading,
        frames=frames,
        near_duplicates=near_duplicates,
        workers=workers,
        progress=bar.to,
        say=tell,
    )
    bar.close()
    if summary.new:
        tell(_time_line(summary, time.perf_counter() - start))
    put_made(json.dumps(summary.as_dict()) if as_json else "\n".join(summary.table()))
    for path, reason in summary.unreadable:
        warn(f"emotiw: cannot read {path}: {reason}")
    if summary.unreadable:
        ctx.exit(SOME_UNREADABLE)
