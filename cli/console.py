"""What a command says: lines for people on standard error, data on standard output, both safe to show on a terminal."""

from __future__ import annotations

import click

from emotiw_keras.text import shown, shown_lines


def tell(line: str) -> None:
    """One line for people; what would break it, or take over the terminal, is escaped."""
    click.echo(shown(line), err=True)


def put(text: object) -> None:
    """Lines of data."""
    click.echo(shown_lines(str(text)))
