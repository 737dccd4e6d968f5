"""What a command says: lines for people on standard error, data on standard output, both safe to show on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click

from emotiw_keras.text import shown, shown_lines


def tell(line: str) -> None:
    """One line for people; what would break it, or take over the terminal, is escaped."""
    click.echo(shown(line), err=True)


def put(text: object) -> None:
    """Lines of data."""
    click.echo(shown_lines(str(text)))


def counter(words: str) -> Callable[[int, int], None] | None:
    """What shows on a terminal how many of how many are done, in words such as "scored {} of {} images"; None elsewhere."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        count = words.format(f"{done:,}", f"{total:,}")
        click.echo(f"\r  {count}" + ("\n" if done == total else ""), err=True, nl=False)

    return show
