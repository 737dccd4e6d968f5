"""`emotiw audit`: any reader of expressions on FER-2013, in the same columns."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from emotiw_keras.cli import completion
from emotiw_keras.cli.amounts import Amount
from emotiw_keras.cli.console import SOME_UNREADABLE, put, put_made, tell, warn
from emotiw_keras.cli.places import LOCAL, RUN
from emotiw_keras.errors import UsageError
from emotiw_keras.sealed import json_text


@click.command()
@click.argument("models", type=RUN, metavar="[MODEL ...]", shell_complete=completion.runs, nargs=-1)
@click.option(
    "--adapter",
    "adapters",
    metavar="[NAME=]COMMAND",
    multiple=True,
    help="A command that answers for a model of any kind, in lines of JSON; repeatable.",
)
@click.option("--data", type=LOCAL, metavar="PATH", required=True, help="FER-2013: its zip, folder or fer2013.csv.")
@click.option("--votes", type=LOCAL, metavar="FILE", help="FER+'s fer2013new.csv: also score by ten people's votes.")
@click.option(
    "--votes-rows",
    type=LOCAL,
    metavar="FILE",
    help="Table file,row: which row of the votes, from 0, a picture of the data is.",
)
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help="Ask about at most N faces, each class in proportion.")
@click.option(
    "--near-duplicates",
    metavar="R",
    type=Amount(0, 1),
    help="Correlation from which two images are one photograph, 0.95 to 1; 0 does not look for them. Default: 0.97.",
)
@click.option(
    "--timeout",
    metavar="S",
    type=Amount(min=1),
    default=1800,
    show_default=True,
    help="Seconds that an adapter has to start, and for each set of faces.",
)
@click.option("--out", type=LOCAL, metavar="DIR", help="Also write audit.html, audit.md and audit.json into this folder.")
@click.option(
    "--resume",
    is_flag=True,
    help="Keep answers in DIR/answers, and take those that are there: only what changed is asked again.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@click.pass_context
def audit(
    ctx: click.Context,
    /,
    models: tuple[str, ...],
    adapters: tuple[str, ...],
    data: str,
    votes: str | None,
    votes_rows: str | None,
    limit: int | None,
    near_duplicates: float | None,
    timeout: float,
    out: str | None,
    resume: bool,
    as_json: bool,
) -> None:
    """Score any reader of expressions on the test faces of FER-2013, in the same columns.

    MODEL is a run folder, the name of a model that ships, a file of `emotiw export --format onnx`, or a TOML file that states
    other files (ONNX, Keras, SavedModel: their labels and input are never guessed) and commands. The columns: all of
    PrivateTest, without pictures that also stand in the other splits, equal or nearly so; FER+'s majority; agreement with a
    human rater; noise, blur and few pixels; calibration; each class; and on what it was trained and selected, where that is
    known. docs/audit.md shows an adapter in 20 lines. Exit code 3: done, but a model could not be asked.

    With --resume an audit that was interrupted goes on. A run or a file is asked again if its weights or what is stated of it
    have changed, an adapter if its command or its first line has: delete its files in DIR/answers if it changed otherwise.

    \b
    Examples:
      emotiw audit fer28-face-vgg-votes --data fer2013.zip
      emotiw audit models.toml --adapter "mine=python my_model.py" --data fer2013.zip --out audit
    """
    from emotiw_keras.audit.adapter import check_timeout
    from emotiw_keras.audit.audit import audit as audited
    from emotiw_keras.audit.entries import adapter_entry, distinct, entry_of
    from emotiw_keras.audit.faces import read_test
    from emotiw_keras.data.near.threshold import THRESHOLD
    from emotiw_keras.files import check_replaced, write_atomic
    from emotiw_keras.hardware import keep_memory
    from emotiw_keras.html import MARK
    from emotiw_keras.reports.audit_page import audit_page, audit_text

    if resume and out is None:
        raise UsageError("--resume keeps answers in the folder of --out; name one with --out DIR")
    check_timeout(timeout)
    if out is not None:
        check_replaced(out, {"audit.json": '"selected_on"', "audit.md": "", "audit.html": MARK}, "an audit")
    keep_memory()
    entries = distinct([*(entry for word in models for entry in entry_of(word)), *map(adapter_entry, adapters)])
    near = THRESHOLD if near_duplicates is None else near_duplicates
    faces = read_test(data, votes, votes_rows, limit=limit, near_duplicates=near, say=tell)
    for line in faces.report:
        tell(line)
    result = audited(entries, faces, timeout=timeout, say=tell, keep=Path(out or ".") / "answers" if resume else None)
    (put if out is None else put_made)(json_text(result) if as_json else audit_text(result))
    if out is not None:
        command = shlex.join(["emotiw", *sys.argv[1:]])
        write_atomic(Path(out) / "audit.json", json_text(result, indent=2) + "\n")
        write_atomic(Path(out) / "audit.md", audit_text(result) + "\n")
        write_atomic(Path(out) / "audit.html", audit_page(result, command))
        tell(f"report: {Path(out) / 'audit.html'} (beside it audit.md, audit.json)")
    failed = [row for row in result["models"] if "error" in row]
    for row in failed:
        warn(f"emotiw: could not ask {row['name']}: {row['error']}")
    if failed:
        ctx.exit(failed[0]["exit_code"] if len(failed) == len(entries) else SOME_UNREADABLE)
