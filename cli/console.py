"""What a command says: lines for people on standard error, data on standard output, both safe to show on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from emotiw_keras import progress, talk
from emotiw_keras.errors import OutputError, UsageError
from emotiw_keras.talk import Notice
from emotiw_keras.text import shown, shown_line, shown_lines

SOME_UNREADABLE = 3
"""Exit code: done, but some inputs could not be read."""


def tell(line: str) -> None:
    """One line for people, with --quiet only a `Notice`; what would break it, or take over the terminal, is escaped."""
    if isinstance(line, Notice) or not talk.quiet:
        progress.clear()
        click.echo(shown(line) if talk.verbose else shown_line(line), err=True)


def warn(line: str) -> None:
    """One line that --quiet keeps: a warning, or an input that is left out or cannot be read."""
    tell(Notice(line))


def remark(line: str) -> None:
    """`tell`, with the command's name before the line."""
    tell(type(line)(f"emotiw: {line}"))


def put(text: object) -> None:
    """Lines of data, which are what the command is for.

    Raises:
        OutputError: standard output is closed.
    """
    check_output()
    put_made(text)


def put_made(text: object) -> None:
    """Lines of data on what was written into files: where standard output is closed, nothing but they is lost."""
    progress.clear()
    click.echo(shown_lines(str(text)))


def check_output() -> None:
    """OutputError where standard output is closed: Python then drops what is written there without a word."""
    if sys.stdout is None:
        raise OutputError("cannot write standard output: it is closed; leave out >&-, or name a file, such as > rows.txt")


def named_values(items: Sequence[str], option: str, form: str) -> dict[str, str]:
    """NAME=VALUE as often as `option` was given: name -> value.

    Raises:
        UsageError: one is not of this form, or a name comes twice.
    """
    found: dict[str, str] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not name or not value or name in found:
            raise UsageError(f"{option} {item!r}: expected {form}, each name once")
        found[name] = value
    return found


def put_table(rows: Sequence[Sequence[str]], right: int) -> None:
    """Rows with aligned columns, the first one the head; column number `right` holds figures and is aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if i == right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        put("  ".join(cells).rstrip())
