"""Options and course of commands that write parts: `emotiw predict --out` and `emotiw prepare --runner`."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from typing import Any, TypeVar

import click

from emotiw_keras.cli.console import SOME_UNREADABLE, put_made, remark, warn
from emotiw_keras.cli.places import ANYWHERE, refuse_address
from emotiw_keras.errors import UsageError
from emotiw_keras.progress import Bar
from emotiw_keras.text import number_of

F = TypeVar("F", bound=Callable[..., Any])
_SPREAD = ("runner", "jobs", "address", "kind", "shard")
_SPELT = {"kind": "--format", "as_json": "--json", "as_csv": "--csv"}


def spread_options(command: F) -> F:
    """--runner, --jobs, --address, --format, --shard."""
    for option in reversed(
        (
            click.option(
                "--runner",
                type=click.Choice(["local", "ray"]),
                help="For parts. local: processes of this machine; ray: a Ray cluster, or Ray on this machine.",
            ),
            click.option(
                "--jobs",
                type=click.IntRange(min=1),
                metavar="N",
                help="For parts: processes at once; default: one a processor.",
            ),
            click.option(
                "--address", metavar="auto|HOST:PORT", help="For --runner ray: the cluster; else Ray is started here."
            ),
            click.option("--format", "kind", type=click.Choice(["jsonl", "parquet"]), help="For parts; default: jsonl."),
            click.option(
                "--shard",
                type=click.IntRange(min=1),
                metavar="N",
                help="For parts: most inputs in one; else 1000, and 256 MiB.",
            ),
        )
    ):
        command = option(command)
    return command


def options(command: F) -> F:
    """--out, and those of `spread_options`."""
    out = click.option("--out", type=ANYWHERE, metavar="DIR", help="Write rows as parts into this folder, or below an address.")
    return out(spread_options(command))


def _given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE


def _spelt(name: str) -> str:
    return _SPELT.get(name, "--" + name.replace("_", "-"))


def refuse(ctx: click.Context, *names: str) -> None:
    """UsageError if one of these options was given: they mean nothing where parts are written."""
    wrong = [_spelt(name) for name in names if _given(ctx, name)]
    if wrong:
        raise UsageError(f"{', '.join(wrong)} cannot be combined with parts in a folder; leave one of them out")


def _need(ctx: click.Context, names: tuple[str, ...], needed: str) -> None:
    wrong = [_spelt(name) for name in names if _given(ctx, name)]
    if wrong:
        raise UsageError(f"{', '.join(wrong)}: only where parts are written; add {needed}")


def refuse_without_out(ctx: click.Context) -> None:
    """UsageError if an option of parts, or an address, was given to `predict` without --out."""
    _need(ctx, _SPREAD, "--out DIR")
    for name in ctx.params["inputs"]:
        refuse_address(name, None, ctx, advice="those of stores are read with --out DIR")


def refuse_without_runner(ctx: click.Context) -> None:
    """The same of `prepare` without --runner."""
    _need(ctx, _SPREAD[1:], "--runner local or ray")
    for name in (*ctx.params["sources"], ctx.params["out"]):
        refuse_address(name, None, ctx, advice="those of stores are understood with --runner local or ray")


_ONE_FILE = {
    ".csv": "for one file leave --out away and end with `--csv > {}`",
    ".json": "for one file leave --out away and end with `--json > {}`",
    ".jsonl": "for one file leave --out away and end with `--json > {}`",
    ".parquet": "add --format parquet for parts in Parquet",
}


def _check_folder_name(command: str, out: str, kind: str | None) -> None:
    """UsageError where the place of the parts is called like one file, which it would not be."""
    name = os.path.basename(out.rstrip("/"))
    ending = os.path.splitext(name)[1].lower()
    advice = _ONE_FILE.get(ending)
    if advice is None or os.path.isdir(out) or ending == f".{kind}" == ".parquet":
        return  # whoever has called a folder so goes on with it
    which = "--out" if command == "predict" else "OUT"
    more = f"; {advice.format(shlex.quote(name))}" if command == "predict" or "--out" not in advice else ""
    raise UsageError(f"{which} {out} is no file but a folder of parts; give it a name without this ending{more}")


def _detector(name: str | None) -> str:
    from emotiw_keras.faces.detectors import DEFAULT, DETECTORS

    if (name or DEFAULT) not in DETECTORS:
        raise UsageError(f"no face detector is called {name!r}; there are {', '.join(DETECTORS)}")
    return name or DEFAULT


def predict_settings(
    model: str,
    head: str | None,
    faces: str,
    detector: str | None,
    min_face: float | None,
    turned: bool,
    every: int,
    smooth: str,
    crops: str | None,
    batch_size: int,
    precision: str,
    engine: str,
) -> dict[str, Any]:
    """The settings of a job of `predict`, everything filled in."""
    from emotiw_keras.bulk.job import model_facts, settled
    from emotiw_keras.inference import checked_crops
    from emotiw_keras.serving.predictor import open_source

    source = open_source(model, head=head)
    for line in source.cautions:
        remark(line)
    found = {"faces": faces, "detector": None if faces == "whole" else _detector(detector), "min_face": min_face}
    found |= {"turned": turned, "every": every, "smooth": smooth, "batch_size": batch_size, "precision": precision}
    found |= {"crops": checked_crops(None if crops is None else int(crops), source.crops)}
    found |= {"engine": settled(engine, source, precision), "head": head, **model_facts(source)}
    return found | {"model": os.path.abspath(os.path.expanduser(model)) if os.path.exists(os.path.expanduser(model)) else model}


def prepare_settings(faces: str, no_face: str, detector: str | None, reading: str, frames: int) -> dict[str, Any]:
    """The settings of a job of `prepare`: those of `face_settings.Settings`."""
    found = {"detector": _detector(detector), "faces": faces, "no_face": no_face, "reading": reading}
    return {**found, "frames": frames}


def run_job(
    ctx: click.Context,
    command: str,
    out: str,
    settings: dict[str, Any],
    inputs: tuple[str, ...],
    *,
    runner: str | None,
    jobs: int | None,
    address: str | None,
    kind: str | None,
    shard: int | None,
) -> None:
    """Do a job, and say what came of it."""
    from emotiw_keras.bulk.entries import BYTES, INPUTS
    from emotiw_keras.bulk.job import Job, named_inputs, versions_of
    from emotiw_keras.bulk.run import run
    from emotiw_keras.bulk.runners import LOCAL
    from emotiw_keras.bulk.runners import runner as runner_of
    from emotiw_keras.files import is_address

    _check_folder_name(command, out, kind)
    kind = kind or "jsonl"
    job = Job(
        command,
        out if is_address(out) else os.path.abspath(out),
        settings,
        kind,
        named_inputs(inputs),
        {"inputs": shard or INPUTS, "bytes": BYTES},
        versions_of(settings.get("engine", "opencv"), kind),
    )
    if kind == "parquet":
        from emotiw_keras.bulk.tables import pyarrow_parquet

        pyarrow_parquet()
    bar = Bar("inputs")
    tally = run(job, inputs, runner_of(runner or LOCAL, jobs, address), remark, bar.to)
    bar.close()
    images = "1 image or frame" if tally.images == 1 else f"{tally.images:,} images and frames"
    found = f"{number_of(tally.inputs, 'inputs')}, {images}, {number_of(tally.faces, 'faces')}"
    put_made(f"{found}, {tally.failed:,} unreadable: {out}")
    for note, count in tally.notes.most_common():
        warn(f"emotiw: {note}: {number_of(count, 'images')}")
    for path, reason in tally.failures:
        warn(f"emotiw: cannot read {path}: {reason}")
    if tally.failed > len(tally.failures):
        more = tally.failed - len(tally.failures)
        warn(f"emotiw: and {more:,} more that cannot be read; `emotiw summary {out}` has the reasons")
    if tally.failed:
        ctx.exit(SOME_UNREADABLE)
