"""Types of arguments that name files and folders: an address that a command does not understand is no folder here."""

from __future__ import annotations

import os
from typing import Any

import click

from emotiw_keras.errors import UsageError


class Place(click.Path):
    """A file or folder of this machine. Whoever reads or writes it says what is wrong with it, and names the others too.

    Args:
        kinds: of addresses that are understood as well, such as "hf".
        named: it stands behind NAME=.
    """

    def __init__(self, *kinds: str, named: bool = False) -> None:
        super().__init__(readable=False)
        self._kinds = kinds
        self._named = named

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        place = str(value).partition("=")[2] if self._named else str(value)
        refuse_address(place, param, ctx, *self._kinds)
        # Behind NAME= readers do it.
        return super().convert(value if self._named else os.path.expanduser(value), param, ctx)


class Anywhere(click.Path):
    """What may be an address of a store; `bulk.places` says which it knows."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(os.path.expanduser(value), param, ctx)


def refuse_address(place: str, param: click.Parameter | None, ctx: click.Context | None, *kinds: str, advice: str = "") -> None:
    """BadParameter if a place is an address of another kind than these; `advice` says where addresses are understood."""
    from emotiw_keras.files import check_local

    try:
        check_local(place, *kinds, advice=advice)
    except UsageError as error:
        raise click.BadParameter(str(error), ctx, param) from error


LOCAL = Place()
NAMED = Place(named=True)
RUN = Place("hf")
ANYWHERE = Anywhere(readable=False)
